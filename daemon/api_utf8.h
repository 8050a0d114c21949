/* daemon/api_utf8.h - one step of strict UTF-8 decoding, shared by the JSON reader and the renderer.
 *
 * Strict means Unicode table 3-7: no overlong form, no surrogate, nothing above U+10FFFF.
 * Pure code.  Thread: any. */
#ifndef DAEMON_API_UTF8_H
#define DAEMON_API_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* Length in bytes (1..4) of the character at p, or 0 if the bytes there are no character.  p < end. */
static inline unsigned api_utf8_step(const uint8_t *p, const uint8_t *end)
{
    uint8_t c = p[0];
    size_t room = (size_t)(end - p);
    uint8_t low = 0x80, high = 0xbf; /* what the second byte may be */
    unsigned n;

    if (c < 0x80)
        return 1;
    if (c < 0xc2 || c > 0xf4)
        return 0;
    n = c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
    if (room < n)
        return 0;
    if (c == 0xe0)
        low = 0xa0;
    else if (c == 0xed)
        high = 0x9f;
    else if (c == 0xf0)
        low = 0x90;
    else if (c == 0xf4)
        high = 0x8f;
    if (p[1] < low || p[1] > high)
        return 0;
    for (unsigned i = 2; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    }
    return n;
}

#endif
