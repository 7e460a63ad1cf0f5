"""What the user's code promises about its model, and how the rest of the house may look at it."""
