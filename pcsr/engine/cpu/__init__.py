"""What makes CPUs fast; originals and encoders use ``onednn`` as well."""
