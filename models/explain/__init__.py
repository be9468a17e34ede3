"""What a trained graph head knows: maps of its scores, its spectrum, one patch and its neighbours, as figures."""
