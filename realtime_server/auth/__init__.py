"""Who may connect, and who may join what.

``keys`` imports keys and pins each to its algorithms, ``tokens`` verifies a JSON Web Token
with them, ``authorizer`` decides on handshakes, joins and refreshes, ``setup`` makes what a
configuration asks for.
"""

from .authorizer import AllowAll, Authorizer, ConnectRequest, JoinRequest, TokenAuthorizer
from .keys import VerificationKey, import_jwks, import_secret
from .setup import make_verifier, reread_verifier
from .tokens import TokenVerifier

__all__ = [
    # authorizer
    "AllowAll",
    "Authorizer",
    "ConnectRequest",
    "JoinRequest",
    "TokenAuthorizer",
    # keys
    "VerificationKey",
    "import_jwks",
    "import_secret",
    # setup
    "make_verifier",
    "reread_verifier",
    # tokens
    "TokenVerifier",
]
