"""Articles in JATS, the XML of PubMed Central: text in reading order, licence and metadata."""
