/* daemon/status.h - `baton status` and `baton top`: a running server at a glance, once or live. */
#ifndef DAEMON_STATUS_H
#define DAEMON_STATUS_H

/* argv behind the command word.  Returns the exit status: 0, 1 no server or a wrong key, 2 usage. */
int daemon_status_run(int argc, char **argv);
int daemon_top_run(int argc, char **argv);

#endif
