"""Image files: headers, decoding, caches and letterbox."""
