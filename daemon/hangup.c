/* daemon/hangup.c - see the header. */
#include "daemon/hangup.h"

#include <signal.h>
#include <stddef.h>
#include <unistd.h>

enum daemon_hangup daemon_hangup_meaning(void)
{
    struct sigaction found;

    if (sigaction(SIGHUP, NULL, &found) == 0 && found.sa_handler == SIG_IGN)
        return DAEMON_HANGUP_IGNORED;
    return isatty(STDIN_FILENO) ? DAEMON_HANGUP_ENDS : DAEMON_HANGUP_RENEWS;
}
