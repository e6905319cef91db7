/* fr_key.h: the bytes of a routing key that Python hands in: str as UTF-8, bytes as they are.
 *
 * Rules: the GIL is held; nothing is copied (a compact ASCII str gives its own characters, any other str the UTF-8 that
 * CPython caches in it); the bytes live as long as the key object; no exception is left behind, so that a noexcept
 * caller can decide what a bad key means.
 */
#ifndef FR_KEY_H
#define FR_KEY_H

#include <Python.h>

#include "fr_base.h"

enum { FR_KEY_OK = 0, FR_KEY_NONE = 1, FR_KEY_WRONG_TYPE = 2, FR_KEY_SURROGATE = 3 };

static inline int fr_key_bytes(PyObject *key, const uint8_t **data, Py_ssize_t *size)
{
    if (FR_LIKELY(PyUnicode_Check(key))) {
        if (FR_LIKELY(PyUnicode_IS_COMPACT_ASCII(key))) {
            *data = (const uint8_t *)((PyASCIIObject *)key + 1);
            *size = PyUnicode_GET_LENGTH(key);
            return FR_KEY_OK;
        }
        *data = (const uint8_t *)PyUnicode_AsUTF8AndSize(key, size);
        if (*data)
            return FR_KEY_OK;
        PyErr_Clear();
        return FR_KEY_SURROGATE;
    }
    if (PyBytes_Check(key)) {
        *data = (const uint8_t *)PyBytes_AS_STRING(key);
        *size = PyBytes_GET_SIZE(key);
        return FR_KEY_OK;
    }
    *data = NULL;
    *size = 0;
    return key == Py_None ? FR_KEY_NONE : FR_KEY_WRONG_TYPE;
}

#endif
