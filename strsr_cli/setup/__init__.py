"""What must be there first: strsr doctor, strsr models."""
