"""Forty-eight questions that somebody might ask a medical model, made up for benchmarks: short and long ones."""

from __future__ import annotations

QUESTIONS = (
    "What is anaemia?",
    "Why does iron deficiency make people tired?",
    "Which vitamin is made in the skin, and what is it good for?",
    "Explain in two sentences what insulin does.",
    "What is the difference between type 1 and type 2 diabetes?",
    "List five symptoms of an underactive thyroid.",
    "How long does a common cold usually last?",
    "Is a fever of 38.5 degrees dangerous for an adult?",
    "What does a cardiologist do?",
    "Name the four chambers of the heart.",
    "A 58-year-old man has had chest pain on exertion for three weeks; it goes away when he rests. He smokes and takes "
    "medicine for high blood pressure. What could be the cause, and which examinations would a doctor order first?",
    "What is a placebo, and why are drug trials blinded?",
    "Can antibiotics cure a viral infection?",
    "Why should one finish a course of antibiotics?",
    "What does the liver do?",
    "Write a short explanation of asthma for a ten-year-old.",
    "What is meant by the half-life of a drug?",
    "Which blood groups can be given to a patient with group O?",
    "What are the side effects of aspirin?",
    "How does a vaccine work?",
    "A nurse finds that a patient who came for a hip replacement is confused on the second night after the operation, "
    "pulls at the drip and does not know where she is. She was clear before. What is this called, what causes it, "
    "and what can be done without drugs?",
    "What is the largest organ of the human body?",
    "Define sensitivity and specificity of a test.",
    "If a disease is rare, why are most positive results of a good test still false?",
    "What is a meta-analysis?",
    "Give three ways to lower high blood pressure without drugs.",
    "What does a red blood cell carry?",
    "Why do people get dizzy when they stand up quickly?",
    "What is the function of the kidneys?",
    "How is pneumonia diagnosed?",
    "What is the difference between a benign and a malignant tumour?",
    "A girl of six has a rash that began behind the ears and spread to the body, with fever, a cough and red eyes; she "
    "was never vaccinated. Two other children in her class are ill too. Which disease is likely and what must be done?",
    "What is a stroke?",
    "Which signs of a stroke should everybody know?",
    "What does MRI stand for?",
    "Is it safe to take ibuprofen together with aspirin?",
    "What is osteoporosis and who is at risk?",
    "How much water should an adult drink per day?",
    "What happens in the body during an allergic reaction?",
    "Describe the path of blood through the heart.",
    "What is a p-value?",
    "Summarise what is known about the link between smoking and lung cancer.",
    "In a trial of 400 patients, 30 of 200 on the new drug and 50 of 200 on the old one had a heart attack within "
    "a year. What is the relative risk, what is the number needed to treat, and what else would you want to know?",
    "What is sepsis?",
    "Which hormone makes the body ready to fight or flee?",
    "Why is hand washing important in hospitals?",
    "What does hypertension mean?",
    "How do beta blockers work?",
)
