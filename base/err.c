/* base/err.c - names, texts and scopes of the codes, all from ERR_MAP. */
#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>

const char *err_name(enum err e)
{
    switch (e) {
#define X(name, value, scope, text) \
    case ERR_##name:                \
        return "ERR_" #name;
        ERR_MAP(X)
#undef X
    }
    return "ERR_?";
}

const char *err_text(enum err e)
{
    switch (e) {
#define X(name, value, scope, text) \
    case ERR_##name:                \
        return text;
        ERR_MAP(X)
#undef X
    }
    return "unknown error";
}

enum err_scope err_scope(enum err e)
{
    switch (e) {
#define X(name, value, scope, text) \
    case ERR_##name:                \
        return ERR_SCOPE_##scope;
        ERR_MAP(X)
#undef X
    }
    return ERR_SCOPE_DEVICE; /* unknown: assume the worst */
}

enum err err_set(struct err_msg *msg, enum err e, const char *format, ...)
{
    va_list args;

    if (msg == NULL)
        return e;
    va_start(args, format);
    if (vsnprintf(msg->text, sizeof(msg->text), format, args) < 0)
        msg->text[0] = '\0';
    va_end(args);
    return e;
}
