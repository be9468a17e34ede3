"""Where does it run? Device, precision, memory, and what a result was made with."""
