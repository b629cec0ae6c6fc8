"""L8: python -m art_advtransform."""

from art_advtransform.cli import main

main()
