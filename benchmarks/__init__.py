"""What the product costs, measured side by side with the scripts that it replaces."""
