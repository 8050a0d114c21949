/* daemon/config.h - every option of every role, from one table: its name is the flag (--kv-mib), the
 * key in the YAML file (kv_mib) and the environment variable (BATON_KV_MIB); its row has type, range,
 * default and help.  Order: default < file < environment < flag.  Tiers and API keys live in the file
 * alone.
 *
 * Thread: start-up only; the result is frozen before other threads start.
 * Ownership: strings belong to the config until daemon_config_free. */
#ifndef DAEMON_CONFIG_H
#define DAEMON_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/err.h"
#include "scheduler/sched.h"

struct daemon_key {
    uint8_t sha256[32];
    char name[64];
    char tenant[64];
    uint32_t tenant_id; /* 0: none */
    uint32_t tier;      /* the highest it may use: an index, 0 is the best */
    bool admin;         /* may use /admin */
};

/* Those of the file, then those that only a key names: they have a fair share and no quota. */
struct daemon_tenant {
    char name[64];
    struct sched_tenant t;
};

struct daemon_config {
    /* model and engine */
    char *model_dir; /* NULL: the demo model */
    char *served_name;
    char *backend;
    char *sim_profile;
    uint32_t threads;
    uint32_t tp, prefill_tp, decode_tp; /* the latter two: 0 = tp */
    uint32_t block_tokens;
    uint32_t max_context;
    uint32_t max_batch;
    uint32_t max_step_tokens;
    uint32_t load_timeout_s;
    uint32_t kv_mib, park_mib;
    /* backends with devices */
    char *device;     /* list; NULL: see daemon/device_list.h */
    char *gpu_memory; /* share; NULL: the backend's own */
    char *weights;
    uint32_t kv_blocks, step_timeout_s, random_weights;
    /* workers */
    uint32_t prefill, decode;
    char *listen_workers; /* HOST:PORT for workers of other hosts; NULL: only local ones */
    char *scheduler;      /* worker roles: where the scheduler is */
    char *secret_file;
    char *name;
    char *worker_class;
    char *kv_host;
    uint32_t kv_port;
    char *kv_transports;
    bool exit_with_parent;
    uint32_t heartbeat_ms, peer_timeout_ms;
    /* HTTP */
    char *host;
    uint32_t port;
    bool allow_open; /* listen beyond loopback without keys */
    bool cors;
    uint32_t max_body_mib;
    uint32_t max_connections;
    uint32_t n_max;
    /* scheduling */
    struct sched_tier tiers[SCHED_TIERS_MAX];
    char tier_labels[SCHED_TIERS_MAX][SCHED_NAME_MAX]; /* in metrics */
    uint32_t n_tiers;
    struct daemon_tenant *tenants; /* tenants[i].t.id is i + 1 */
    uint32_t n_tenants;
    char *policy;
    char *class_file; /* one or more, with commas between */
    bool local_prefill;
    bool elastic;
    uint32_t elastic_interval_ms, elastic_cooldown_ms, elastic_min_prefill, elastic_min_decode;
    char *scale_command;
    char *default_tier;
    uint32_t max_queued;
    uint32_t max_queued_tokens;
    uint32_t prefill_window_tokens;
    uint32_t queue_timeout_s, request_timeout_s, handover_timeout_s;
    uint32_t drain_timeout_s;
    struct daemon_key *keys;
    uint32_t n_keys;
    /* records */
    char *admin_key_file;
    char *records;
    uint32_t records_kept;
    /* log */
    char *log_level, *log_format;
    /* where to read */
    char *config_file;
};

/* Which options a command takes. */
enum daemon_command { DAEMON_CMD_SERVE = 1, DAEMON_CMD_PREFILL = 2, DAEMON_CMD_DECODE = 4 };

/* Read flags (argv after the command word), environment and file.  On a failure msg says what is wrong,
 * where (flag, variable, or file and line), and the allowed range.  ERR_CANCELED: --help was asked for and
 * has been printed. */
MUST_USE enum err daemon_config_load(enum daemon_command command, int argc, char **argv,
                                     struct err_msg *msg, struct daemon_config **out);
/* The classes that class_file names; room for SCHED_CLASSES_MAX.  Errors: those of bench/profile_file.h; ERR_LIMIT. */
MUST_USE enum err daemon_config_classes(const struct daemon_config *c, struct sched_class *out,
                                        uint32_t *n, struct err_msg *msg);
/* Check a file alone, with the files that it names, for `baton config check FILE`. */
MUST_USE enum err daemon_config_check_file(const char *path, struct err_msg *msg);
/* The effective values, as a file that could be read back (without keys); the help of a command; the whole
 * table in Markdown. */
void daemon_config_print(const struct daemon_config *c, FILE *to);
void daemon_config_help(enum daemon_command command, FILE *to);
void daemon_config_reference(FILE *to);
void daemon_config_free(struct daemon_config *c);

#endif
