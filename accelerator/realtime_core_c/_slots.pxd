"""Objects of classes with ``__slots__``, made without a call of the class.

A slot's descriptor says where in an object its value is. A new object's slots are empty.
"""

from cpython.object cimport PyObject, PyTypeObject


cdef extern from "structmember.h":
    int T_OBJECT_EX
    ctypedef struct PyMemberDef:
        int type
        Py_ssize_t offset

cdef extern from "Python.h":
    ctypedef struct PyMemberDescrObject:
        PyMemberDef *d_member
    PyTypeObject PyMemberDescr_Type
    PyTypeObject *Py_TYPE(object)
    object PyType_GenericAlloc(PyTypeObject *, Py_ssize_t)


cdef inline Py_ssize_t slot_of(object cls, str name) except -1:
    """Return where an object of the class has the slot."""
    cdef object descriptor = getattr(cls, name)
    if Py_TYPE(descriptor) is not &PyMemberDescr_Type:
        raise TypeError(f"{cls.__name__}.{name} is not a slot")
    cdef PyMemberDef *member = (<PyMemberDescrObject *><PyObject *>descriptor).d_member
    if member.type != T_OBJECT_EX or member.offset <= 0:
        raise TypeError(f"{cls.__name__}.{name} is not a slot for objects")
    return member.offset


cdef inline object new(object cls):
    """Return an object whose slots are empty."""
    return PyType_GenericAlloc(<PyTypeObject *>cls, 0)


cdef inline void fill(object target, Py_ssize_t slot, object value) noexcept:
    """Put a value into a slot that is empty."""
    Py_INCREF(value)
    place_of(target, slot)[0] = <PyObject *>value


cdef inline PyObject **place_of(object owner, Py_ssize_t slot) noexcept:
    """Return where the value of a slot is; there is NULL if it is empty."""
    return <PyObject **>(<char *><PyObject *>owner + slot)


cdef inline object get(object owner, Py_ssize_t slot):
    """Return what is in a slot that is not empty."""
    return <object>place_of(owner, slot)[0]


cdef inline void put(object owner, Py_ssize_t slot, object value) noexcept:
    """Put a value into a slot, in place of what is there."""
    cdef PyObject **place = place_of(owner, slot)
    cdef PyObject *former = place[0]
    Py_INCREF(value)
    place[0] = <PyObject *>value
    Py_XDECREF(former)


cdef extern from "Python.h":
    void Py_INCREF(object)
    void Py_XDECREF(PyObject *)
