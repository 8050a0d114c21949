/* daemon/link_addr.c - addresses in three forms, taken apart. */
#include "daemon/link_addr.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static enum err parse_port(const char *text, uint16_t *out)
{
    char *end;
    unsigned long v;

    if (!isdigit((unsigned char)text[0]))
        return ERR_INVALID;
    v = strtoul(text, &end, 10);
    if (*end != '\0' || v > 65535)
        return ERR_INVALID;
    *out = (uint16_t)v;
    return ERR_OK;
}

enum err daemon_addr_parse(const char *text, struct daemon_addr *out, struct err_msg *msg)
{
    const char *host = text, *colon;
    size_t host_len;

    memset(out, 0, sizeof(*out));
    if (strncmp(text, "unix:", 5) == 0) {
        /* sun_path holds 108 bytes with the NUL */
        if (strlen(text + 5) < 1 || strlen(text + 5) > 107)
            return err_set(msg, ERR_INVALID,
                           "address '%s': a socket path needs 1 to 107 characters", text);
        out->is_unix = true;
        snprintf(out->host, sizeof(out->host), "%s", text + 5);
        return ERR_OK;
    }
    colon = strrchr(text, ':');
    if (text[0] == '[') {
        const char *close = strchr(text, ']');

        host = text + 1;
        if (close == NULL || close[1] != ':')
            colon = NULL;
        else
            colon = close + 1;
        host_len = close == NULL ? 0 : (size_t)(close - host);
    } else {
        host_len = colon == NULL ? 0 : (size_t)(colon - host);
    }
    if (colon == NULL || host_len == 0 || host_len >= sizeof(out->host) ||
        parse_port(colon + 1, &out->port) != ERR_OK)
        return err_set(msg, ERR_INVALID,
                       "address '%.200s': expected HOST:PORT, [V6]:PORT or unix:PATH", text);
    memcpy(out->host, host, host_len);
    return ERR_OK;
}

bool daemon_addr_is_loopback(const char *host)
{
    /* 127.example.com is a name that anybody may own: all of it must be digits and dots. */
    return (strncmp(host, "127.", 4) == 0 && strspn(host, "0123456789.") == strlen(host)) ||
           strcmp(host, "::1") == 0 || strcmp(host, "localhost") == 0;
}

bool daemon_addr_is_wildcard(const char *host)
{
    return strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0 || strcmp(host, "*") == 0 ||
           host[0] == '\0';
}
