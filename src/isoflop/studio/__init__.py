"""The studio: families quoted, launched, watched and fetched in a browser, over the same engine as the command line."""
