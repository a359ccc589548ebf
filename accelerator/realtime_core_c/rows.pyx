# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, freethreading_compatible=False
"""The fields, records and changes of rows' messages: realtime_core.pgoutput's work, compiled.

Each function here reads what is right, and leaves all else to Python: what is wrong with a message
is said there. No byte is read before it is known to belong to the message.
"""

from datetime import date, datetime, timezone

from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_CheckExact,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.datetime cimport import_datetime, timedelta_new
from cpython.dict cimport PyDict_GetItem
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE, PyTuple_New, PyTuple_SET_ITEM
from cpython.unicode cimport PyUnicode_DecodeUTF8

from realtime_core_c._slots cimport fill, new, slot_of

from realtime_core.changes import Begin, Commit, Delete, Insert, Transaction, Update
from realtime_core.lsn import LSN
from realtime_core.records import UNCHANGED, Record

__all__ = ["RowReader", "decode_changes", "fields_reader"]

import_datetime()

cdef object unchanged = UNCHANGED
cdef object RecordClass = Record
cdef object InsertClass = Insert
cdef object UpdateClass = Update
cdef object DeleteClass = Delete

cdef Py_ssize_t RECORD_SHAPE = slot_of(Record, "shape")
cdef Py_ssize_t RECORD_FIELDS = slot_of(Record, "fields")
# Where an Insert, Update and Delete have what all changes of rows have.
cdef Py_ssize_t TRANSACTION = slot_of(Insert, "transaction")
cdef Py_ssize_t INDEX = slot_of(Insert, "index")
cdef Py_ssize_t RELATION = slot_of(Insert, "relation")
cdef Py_ssize_t INSERT_RECORD = slot_of(Insert, "record")
cdef Py_ssize_t UPDATE_RECORD = slot_of(Update, "record")
cdef Py_ssize_t UPDATE_OLD_RECORD = slot_of(Update, "old_record")
cdef Py_ssize_t DELETE_OLD_RECORD = slot_of(Delete, "old_record")
for _change in (Update, Delete):
    if (
        slot_of(_change, "transaction") != TRANSACTION
        or slot_of(_change, "index") != INDEX
        or slot_of(_change, "relation") != RELATION
    ):
        raise TypeError("the changes of rows have their common attributes in different slots")

cdef object TransactionClass = Transaction
cdef object CommitClass = Commit
cdef object LsnClass = LSN
# Without the check of LSN(), as any 64 bits are one.
cdef object new_lsn = int.__new__
cdef object EPOCH = datetime(2000, 1, 1, tzinfo=timezone.utc)
cdef Py_ssize_t XID = slot_of(Transaction, "xid")
cdef Py_ssize_t COMMIT_LSN = slot_of(Transaction, "commit_lsn")
cdef Py_ssize_t COMMIT_TIME = slot_of(Transaction, "commit_time")
cdef Py_ssize_t ORIGIN = slot_of(Transaction, "origin")
cdef Py_ssize_t STREAM = slot_of(Transaction, "stream")
cdef Py_ssize_t GID = slot_of(Transaction, "gid")
cdef Py_ssize_t COMMIT_TRANSACTION = slot_of(Commit, "transaction")
cdef Py_ssize_t END_LSN = slot_of(Commit, "end_lsn")
cdef Py_ssize_t COMMIT_CHANGES = slot_of(Commit, "changes")

# The sizes of a Begin and a Commit.
cdef enum:
    BEGIN = 21
    COMMIT = 26

cdef long long A_DAY = 86400000000
# Python has no days at or beyond these, counted from 2000-01-01.
cdef long long FIRST_DAY = date.min.toordinal() - EPOCH.toordinal() - 1
cdef long long LAST_DAY = date.max.toordinal() - EPOCH.toordinal() + 1

# How many bytes of a message tell its tag, relation, first tuple's kind, and number of fields.
cdef enum:
    HEAD = 8


# Fields


cdef tuple read_tuple(bytes data, Py_ssize_t *offset, Py_ssize_t columns, bint *has_unchanged):
    """Read the fields from ``offset`` on, and move it behind them.

    Return None if the message is too short, or has a field of an unknown kind or length. Raise
    UnicodeDecodeError if a text is not UTF-8.
    """
    cdef const unsigned char *start = <const unsigned char *>PyBytes_AS_STRING(data)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    cdef Py_ssize_t at = offset[0]
    cdef Py_ssize_t place
    cdef unsigned int length
    cdef unsigned char kind
    cdef object field
    # Each field has a byte at least, so a number that is too large makes no large tuple.
    if columns < 0 or columns > size - at:
        return None
    cdef tuple fields = PyTuple_New(columns)
    for place in range(columns):
        if at >= size:
            return None
        kind = start[at]
        at += 1
        if kind == c't' or kind == c'b':
            if size - at < 4:
                return None
            length = (
                <unsigned int>start[at] << 24
                | <unsigned int>start[at + 1] << 16
                | <unsigned int>start[at + 2] << 8
                | <unsigned int>start[at + 3]
            )
            at += 4
            # PostgreSQL's lengths have a sign: a negative one is refused like one too large.
            if length > 0x7FFFFFFF or <Py_ssize_t>length > size - at:
                return None
            if kind == c't':
                field = PyUnicode_DecodeUTF8(<const char *>start + at, length, NULL)
            else:
                field = PyBytes_FromStringAndSize(<const char *>start + at, length)
            at += length
        elif kind == c'n':
            field = None
        elif kind == c'u':
            field = unchanged
            has_unchanged[0] = True
        else:
            return None
        Py_INCREF(field)
        PyTuple_SET_ITEM(fields, place, field)
    offset[0] = at
    return fields


def fields_reader(Py_ssize_t columns, read_fields):
    """Return a reader of so many fields; ``read_fields`` reads those that are wrong."""

    def read(data, Py_ssize_t offset):
        cdef Py_ssize_t at = offset
        cdef bint ignored = False
        cdef tuple fields = None
        if PyBytes_CheckExact(data) and offset >= 0:
            try:
                fields = read_tuple(<bytes>data, &at, columns, &ignored)
            except UnicodeDecodeError:
                pass
        if fields is None:
            return read_fields(data, offset, columns)
        return fields, at

    return read


# Records and changes


cdef inline object make_record(object shape, tuple fields):
    cdef object record = new(RecordClass)
    fill(record, RECORD_SHAPE, shape)
    fill(record, RECORD_FIELDS, fields)
    return record


cdef inline object make_change(object cls, object transaction, object index, object relation):
    cdef object change = new(cls)
    fill(change, TRANSACTION, transaction)
    fill(change, INDEX, index)
    fill(change, RELATION, relation)
    return change


cdef class RowReader:
    """Makes changes of the messages that begin with ``head``, which has no xid.

    Args:
        head: the first eight bytes of the messages.
        relation: the table of their rows.
    """

    cdef object relation
    cdef object shape
    cdef object old_shape
    cdef tuple key_places
    cdef Py_ssize_t columns
    cdef unsigned char tag
    cdef unsigned char kind

    def __init__(self, bytes head, relation):
        if len(head) != HEAD or head[:1] not in (b"I", b"U", b"D"):
            raise ValueError(f"{head!r} is not the head of a row's message")
        self.tag = head[0]
        self.kind = head[5]
        self.relation = relation
        self.shape = relation.shape
        self.old_shape = relation.key_shape if self.kind == c'K' else relation.shape
        self.key_places = tuple(relation.key_places)
        self.columns = len(relation.columns)
        for place in self.key_places:
            if not 0 <= place < self.columns:
                raise ValueError(f"{relation} has no column at {place}")

    def __call__(self, data, transaction, index):
        return self.read(data, transaction, index) if PyBytes_CheckExact(data) else None

    cdef object read(self, bytes data, object transaction, object index):
        """Return the change; None if it takes the long way."""
        try:
            return self._read(data, transaction, index)
        except UnicodeDecodeError:
            return None

    cdef object _read(self, bytes data, object transaction, object index):
        cdef Py_ssize_t at = HEAD
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        cdef bint has_unchanged = False
        cdef object change
        cdef object old = None
        cdef const char *start
        cdef tuple fields = read_tuple(data, &at, self.columns, &has_unchanged)
        if fields is None:
            return None
        if self.tag == c'U' and self.kind != c'N':
            # Behind the old row, or key, there are the kind and the width of the new row.
            start = PyBytes_AS_STRING(data)
            if (
                size - at < 3
                or start[at] != c'N'
                or start[at + 1] != start[6]
                or start[at + 2] != start[7]
            ):
                return None
            old = make_record(self.old_shape, self._old_fields(fields))
            at += 3
            has_unchanged = False
            fields = read_tuple(data, &at, self.columns, &has_unchanged)
            # An unchanged value has to be taken from the old row, which the long way does.
            if fields is None or has_unchanged:
                return None
        if at != size:
            return None
        if self.tag == c'I':
            change = make_change(InsertClass, transaction, index, self.relation)
            fill(change, INSERT_RECORD, make_record(self.shape, fields))
        elif self.tag == c'U':
            change = make_change(UpdateClass, transaction, index, self.relation)
            fill(change, UPDATE_RECORD, make_record(self.shape, fields))
            fill(change, UPDATE_OLD_RECORD, old)
        else:
            change = make_change(DeleteClass, transaction, index, self.relation)
            old = make_record(self.old_shape, self._old_fields(fields))
            fill(change, DELETE_OLD_RECORD, old)
        return change

    cdef tuple _old_fields(self, tuple fields):
        """Return the fields of an old row, of a key only those of its columns."""
        cdef Py_ssize_t number = PyTuple_GET_SIZE(self.key_places)
        cdef Py_ssize_t place
        cdef tuple key
        cdef object field
        if self.kind != c'K':
            return fields
        key = PyTuple_New(number)
        for place in range(number):
            field = <object>PyTuple_GET_ITEM(
                fields, <Py_ssize_t><object>PyTuple_GET_ITEM(self.key_places, place)
            )
            Py_INCREF(field)
            PyTuple_SET_ITEM(key, place, field)
        return key


# Begin and Commit


cdef inline unsigned long long number(const unsigned char *at, int width) noexcept:
    """Return the number whose bytes begin at ``at``, the highest first."""
    cdef unsigned long long value = 0
    cdef int place
    for place in range(width):
        value = value << 8 | at[place]
    return value


cdef object begun(bytes data, object stream):
    """Return the transaction of a Begin; None if it has to go the long way."""
    cdef const unsigned char *at = <const unsigned char *>PyBytes_AS_STRING(data)
    cdef long long time
    cdef long long day
    cdef object transaction
    if PyBytes_GET_SIZE(data) != BEGIN:
        return None
    time = <long long>number(at + 9, 8)
    # Days, rounded down.
    day = time // A_DAY - (time % A_DAY < 0)
    if not FIRST_DAY < day < LAST_DAY:
        return None
    time -= day * A_DAY
    transaction = new(TransactionClass)
    fill(transaction, XID, number(at + 17, 4))
    fill(transaction, COMMIT_LSN, new_lsn(LsnClass, number(at + 1, 8)))
    fill(
        transaction,
        COMMIT_TIME,
        EPOCH + timedelta_new(<int>day, <int>(time // 1000000), <int>(time % 1000000)),
    )
    fill(transaction, ORIGIN, None)
    fill(transaction, STREAM, stream)
    fill(transaction, GID, None)
    return transaction


cdef object committed(bytes data, object transaction, object changes):
    """Return the Commit of a transaction; None if it has to go the long way."""
    cdef const unsigned char *at = <const unsigned char *>PyBytes_AS_STRING(data)
    cdef object commit
    if PyBytes_GET_SIZE(data) != COMMIT or number(at + 2, 8) != transaction.commit_lsn:
        return None
    commit = new(CommitClass)
    fill(commit, COMMIT_TRANSACTION, transaction)
    fill(commit, END_LSN, new_lsn(LsnClass, number(at + 10, 8)))
    fill(commit, COMMIT_CHANGES, changes)
    return commit


# The loop over a stream's messages


def decode_changes(payloads, opened, dict readers, bint refuses, may_begin, long_way):
    """Do what :meth:`realtime_core.pgoutput.ChangeDecoder.decode` says.

    Args:
        payloads: the messages.
        opened: the stream's OpenTransaction.
        readers: the row readers by head.
        refuses: whether an error came before, after which no short cut is taken.
        may_begin: returns whether a Begin may come now.
        long_way: takes any message, and returns its events.
    """
    cdef object transaction = None if refuses else opened.transaction
    cdef object index = opened.changes
    cdef object change
    cdef object data
    cdef PyObject *reader
    cdef unsigned char tag
    for data in payloads:
        tag = 0
        if PyBytes_CheckExact(data) and PyBytes_GET_SIZE(data) >= HEAD:
            tag = <unsigned char>PyBytes_AS_STRING(data)[0]
            if transaction is not None and (tag == c'I' or tag == c'U' or tag == c'D'):
                reader = PyDict_GetItem(
                    readers, PyBytes_FromStringAndSize(PyBytes_AS_STRING(data), HEAD)
                )
                if reader is not NULL:
                    change = (<RowReader?>reader).read(<bytes>data, transaction, index)
                    if change is not None:
                        index = index + 1
                        opened.changes = index
                        if opened.begin_is_due:
                            opened.begin_is_due = False
                            yield Begin(transaction)
                        yield change
                        continue
        if tag == c'C' and transaction is not None and not opened.begin_is_due:
            commit = committed(<bytes>data, transaction, index)
            if commit is not None:
                opened.transaction = transaction = None
                yield commit
                continue
        elif tag == c'B' and may_begin():
            begin = begun(<bytes>data, opened.stream)
            if begin is not None:
                opened.transaction, opened.changes, opened.begin_is_due = begin, 0, True
                transaction, index = begin, 0
                continue
        events = long_way(data)
        if events:
            yield from events
        transaction, index = opened.transaction, opened.changes
