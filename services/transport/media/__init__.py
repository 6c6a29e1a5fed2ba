"""What the media plane must know of a vendor: find sound, wrap sound, dial. Pure."""
