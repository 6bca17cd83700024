"""Publishing a built channel: prove it, compare it with what is there, upload the packages, write the index last."""
