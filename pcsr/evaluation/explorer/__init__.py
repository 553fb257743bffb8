"""What an explorer page is made of: ``content`` of ``subject``s, which stand at ``stops``."""
