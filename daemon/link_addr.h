/* daemon/link_addr.h - "unix:PATH", "HOST:PORT", "[V6]:PORT": take an address apart.  Thread: any. */
#ifndef DAEMON_LINK_ADDR_H
#define DAEMON_LINK_ADDR_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

enum { DAEMON_ADDR_MAX = 256 };

struct daemon_addr {
    bool is_unix;
    char host[DAEMON_ADDR_MAX]; /* or the path */
    uint16_t port;
};

/* ERR_INVALID with the text and the form expected. */
MUST_USE enum err daemon_addr_parse(const char *text, struct daemon_addr *out, struct err_msg *msg);
bool daemon_addr_is_loopback(const char *host);
/* "0.0.0.0", "::", "*", "" */
bool daemon_addr_is_wildcard(const char *host);

#endif
