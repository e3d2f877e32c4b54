"""What `test_cookiecutter` adds to a generated application."""
