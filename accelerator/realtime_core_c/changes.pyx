# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, freethreading_compatible=False
"""The changes of a stream's messages, with Begin and Commit: ChangeDecoder's loop, compiled."""

from datetime import date, datetime, timezone

from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_CheckExact,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.datetime cimport import_datetime, timedelta_new
from cpython.dict cimport PyDict_GetItem
from cpython.list cimport PyList_GET_ITEM
from cpython.object cimport PyObject
from libc.string cimport memcpy

from realtime_core_c._slots cimport fill, get, new, put, slot_of
from realtime_core_c.rows cimport HEAD, RowReader

from realtime_core.changes import Begin, Commit, Transaction
from realtime_core.lsn import LSN
from realtime_core.pgoutput._transaction_changes import OpenTransaction

__all__ = ["Changes"]

import_datetime()

cdef object BeginClass = Begin
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
cdef Py_ssize_t OPENED_CHANGES = slot_of(OpenTransaction, "changes")
cdef Py_ssize_t OPENED_DUE = slot_of(OpenTransaction, "begin_is_due")

# The sizes of a Begin and a Commit.
cdef enum:
    BEGIN = 21
    COMMIT = 26

# How many readers are found without the dict, by a hash of three bits.
cdef enum:
    RECENT = 8

cdef long long A_DAY = 86400000000
# Python has no days at or beyond these, counted from 2000-01-01.
cdef long long FIRST_DAY = date.min.toordinal() - EPOCH.toordinal() - 1
cdef long long LAST_DAY = date.max.toordinal() - EPOCH.toordinal() + 1


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


cdef class Changes:
    """Does what :meth:`realtime_core.pgoutput.ChangeDecoder.decode` says.

    Args:
        payloads: the messages.
        opened: the stream's OpenTransaction.
        readers: the row readers by head.
        refuses: whether an error came before, after which no short cut is taken.
        may_begin: returns whether a Begin may come now.
        long_way: takes any message, and returns its events.
    """

    cdef object payloads
    cdef object opened
    cdef dict readers
    cdef object may_begin
    cdef object long_way
    # The transaction of short cuts, and the index of its next change.
    cdef object transaction
    cdef object index
    # What is yielded next: the events of a message, or the change behind a Begin.
    cdef object events
    cdef object change
    # The heads of messages of late, and their readers.
    cdef unsigned long long heads[RECENT]
    cdef list recent

    def __init__(self, payloads, opened, dict readers, bint refuses, may_begin, long_way):
        if type(opened) is not OpenTransaction:
            raise TypeError("this takes an OpenTransaction")
        self.payloads = iter(payloads)
        self.opened = opened
        self.readers = readers
        self.may_begin = may_begin
        self.long_way = long_way
        self.transaction = None if refuses else opened.transaction
        self.index = opened.changes
        self.recent = [None] * RECENT

    cdef inline RowReader reader(self, bytes data):
        """Return the reader of a row's message; None if there is none."""
        cdef unsigned long long head
        cdef PyObject *found
        cdef object reader
        memcpy(&head, PyBytes_AS_STRING(data), HEAD)
        # The highest bits of the product depend on all bytes.
        cdef Py_ssize_t place = head * 0x9E3779B97F4A7C15ULL >> 61
        reader = <object>PyList_GET_ITEM(self.recent, place)
        if reader is None or self.heads[place] != head:
            found = PyDict_GetItem(
                self.readers, PyBytes_FromStringAndSize(PyBytes_AS_STRING(data), HEAD)
            )
            if found is NULL:
                return None
            reader = <RowReader?>found
            self.heads[place] = head
            self.recent[place] = reader
        return <RowReader>reader

    def __iter__(self):
        return self

    def __next__(self):
        cdef object event
        if self.change is not None:
            event = self.change
            self.change = None
            return event
        if self.payloads is None:
            raise StopIteration
        try:
            return self._next()
        except BaseException:
            # As with a generator, nothing comes behind an error, nor behind the end.
            self.payloads = None
            raise

    cdef object _next(self):
        cdef object change
        cdef object data
        cdef RowReader reader
        cdef unsigned char tag
        while True:
            if self.events is not None:
                for change in self.events:
                    return change
                self.events = None
                self._look()
            data = next(self.payloads)
            tag = 0
            if PyBytes_CheckExact(data) and PyBytes_GET_SIZE(data) >= HEAD:
                tag = <unsigned char>PyBytes_AS_STRING(data)[0]
            if self.transaction is not None:
                if tag == c'I' or tag == c'U' or tag == c'D':
                    reader = self.reader(<bytes>data)
                    if reader is not None:
                        change = reader.read(<bytes>data, self.transaction, self.index)
                        if change is not None:
                            self.index = self.index + 1
                            put(self.opened, OPENED_CHANGES, self.index)
                            if get(self.opened, OPENED_DUE) is not False:
                                self.opened.begin_is_due = False
                                self.change = change
                                return BeginClass(self.transaction)
                            return change
                elif tag == c'C' and not self.opened.begin_is_due:
                    change = committed(<bytes>data, self.transaction, self.index)
                    if change is not None:
                        self.opened.transaction = self.transaction = None
                        return change
            if tag == c'B' and self.may_begin():
                change = begun(<bytes>data, self.opened.stream)
                if change is not None:
                    self.opened.transaction = self.transaction = change
                    self.opened.changes = self.index = 0
                    self.opened.begin_is_due = True
                    continue
            events = self.long_way(data)
            if events:
                self.events = iter(events)
            else:
                self._look()

    cdef int _look(self) except -1:
        """Note what the long way has left behind: readers may be gone, too."""
        self.transaction = self.opened.transaction
        self.index = self.opened.changes
        self.recent = [None] * RECENT
