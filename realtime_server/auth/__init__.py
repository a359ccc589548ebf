"""Who may connect, and who may join which topic.

:mod:`.keys` imports keys and pins each to its algorithms, :mod:`.tokens` verifies a JSON Web Token
with them, :mod:`.authorizer` decides on handshakes, joins and new tokens, and :mod:`.setup` makes
the verifier that the settings ask for.
"""
