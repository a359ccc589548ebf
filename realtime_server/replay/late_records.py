"""What to do when a record of another process comes later than the client that the record is of.

A client that loses its connections within a moment is faster than the journal: it comes here before
this process knows the channel that the client has just left elsewhere. So it goes on from an older
one, or begins anew. If the channel that becomes known later stayed, it would look like another
client's as soon as this one loses its connection again. No I/O.
"""

from __future__ import annotations

from .memberships import Memberships

__all__ = ["take_what_is_known_late"]


def take_what_is_known_late(memberships: Memberships, digest: bytes) -> None:
    """Take over what the client of a session had left in other processes before it came here.

    A process where a client of the same session still is finds out, and tells this one, that
    several clients have it.

    Args:
        memberships: of this process.
        digest: the digest of a key, of which a channel has just become known.
    """
    for member in memberships.of(digest):
        if not (member.ref and member.is_chosen and not member.is_claimed):
            continue
        if not memberships.shared_sessions.is_exact(member.key):
            continue
        for one in memberships.absences.elsewhere(member.key):
            if one.ref < member.ref and not one.is_asked_about:
                memberships.taken_places.note(
                    digest, one.ref, one.place, member.client, is_told=False
                )
                memberships.absences.remove(one)
