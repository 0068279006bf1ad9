"""The application: components built from the configuration, run, and rebuilt on a new database after damage."""
