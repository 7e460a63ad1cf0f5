"""The words of the house: errors, artefacts, documents and steps. Standard library and msgspec only."""
