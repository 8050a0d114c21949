/* daemon/refusal.h - why a request is refused, in a sentence for the client.
 *
 * Thread: any.  Ownership: texts are constants.  Blocking: never. */
#ifndef DAEMON_REFUSAL_H
#define DAEMON_REFUSAL_H

#include "daemon/hub.h"

/* Agrees with the forecast that goes with it: what would itself be in time is not called late. */
const char *daemon_refusal_words(const struct daemon_refusal *r);

#endif
