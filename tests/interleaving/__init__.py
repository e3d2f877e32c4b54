"""Requests in any interleaving, beside a specification that runs."""
