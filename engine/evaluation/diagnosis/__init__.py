"""Why objects are missed: causes, errors by kind, pictures, and a page with all of it."""
