"""What parity.py compares: the losses of this project beside exports of the released modules, one family a file."""
