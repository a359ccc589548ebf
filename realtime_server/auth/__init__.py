"""Who may connect, and who may join what.

``keys`` imports keys and pins each to its algorithms, ``tokens`` verifies a JSON Web Token
with them, ``authorizer`` decides on handshakes, joins and refreshes, ``setup`` makes what a
configuration asks for.
"""
