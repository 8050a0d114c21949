/* daemon/hangup.h - what SIGHUP means to a process that serves.
 *
 * To be asked at the start: a terminal that has gone is no terminal any more. */
#ifndef DAEMON_HANGUP_H
#define DAEMON_HANGUP_H

enum daemon_hangup {
    DAEMON_HANGUP_IGNORED = 1, /* as it was found (nohup): leave it so */
    DAEMON_HANGUP_ENDS,        /* started from a terminal, which is gone: like SIGTERM */
    DAEMON_HANGUP_RENEWS /* started by a supervisor: somebody rotates logs or changed a file */
};

enum daemon_hangup daemon_hangup_meaning(void);

#endif
