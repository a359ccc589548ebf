"""Where the fields of a row are in its message, and whether their texts are UTF-8."""

from libc.string cimport memcpy


cdef inline unsigned char next_field(
    const unsigned char *start, Py_ssize_t size, Py_ssize_t *at, Py_ssize_t *length
) noexcept:
    """Return the kind of the field at ``at``; 0 if it is unknown, or not wholly in the message.

    Afterwards ``at`` is where the field's value begins, which has so many bytes.
    """
    cdef const unsigned char *field = start + at[0]
    cdef unsigned int value
    if at[0] >= size:
        return 0
    length[0] = 0
    if field[0] == c't' or field[0] == c'b':
        if size - at[0] < 5:
            return 0
        value = (
            <unsigned int>field[1] << 24
            | <unsigned int>field[2] << 16
            | <unsigned int>field[3] << 8
            | <unsigned int>field[4]
        )
        at[0] += 5
        # PostgreSQL's lengths have a sign: a negative one is refused like one too large.
        if value > 0x7FFFFFFF or <Py_ssize_t>value > size - at[0]:
            return 0
        length[0] = <Py_ssize_t>value
        return field[0]
    at[0] += 1
    return field[0] if field[0] == c'n' or field[0] == c'u' else 0


cdef inline bint is_ascii(const unsigned char *at, Py_ssize_t size) noexcept:
    """Say whether no byte is above 127."""
    cdef unsigned long long word
    cdef unsigned long long bits = 0
    cdef Py_ssize_t place = 0
    while place + 8 <= size:
        memcpy(&word, at + place, 8)
        bits |= word
        place += 8
    while place < size:
        bits |= at[place]
        place += 1
    return not bits & 0x8080808080808080ULL


cdef inline bint is_utf8(const unsigned char *at, Py_ssize_t size) noexcept:
    """Say whether bytes are what Python decodes as UTF-8: the Unicode Standard, table 3-7."""
    cdef const unsigned char *end = at + size
    cdef unsigned long long word
    cdef unsigned char first
    cdef unsigned char low
    cdef unsigned char high
    cdef int more
    while at < end:
        if end - at >= 8:
            memcpy(&word, at, 8)
            if not word & 0x8080808080808080ULL:
                at += 8
                continue
        first = at[0]
        at += 1
        if first < 0x80:
            continue
        # The second byte of some is bounded more narrowly: what is shorter in fewer bytes, the
        # surrogates, and what lies beyond Unicode, are no UTF-8.
        low, high = 0x80, 0xBF
        if 0xC2 <= first <= 0xDF:
            more = 1
        elif 0xE0 <= first <= 0xEF:
            more = 2
            if first == 0xE0:
                low = 0xA0
            elif first == 0xED:
                high = 0x9F
        elif 0xF0 <= first <= 0xF4:
            more = 3
            if first == 0xF0:
                low = 0x90
            elif first == 0xF4:
                high = 0x8F
        else:
            return False
        if end - at < more or not low <= at[0] <= high:
            return False
        if more > 1 and at[1] & 0xC0 != 0x80 or more > 2 and at[2] & 0xC0 != 0x80:
            return False
        at += more
    return True
