"""The room of what must be there first: strsr doctor, strsr models."""
