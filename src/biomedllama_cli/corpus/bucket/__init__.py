"""PubMed Central's public bucket: what one day's inventory lists, fetched into bundles on disk."""
