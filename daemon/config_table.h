/* daemon/config_table.h - the table of options.  Private to config*.c.
 *
 * Columns: field and name, type, default, smallest, largest, unit, commands, group, help.  A text option may be
 * empty, which is as if it were not given, unless its smallest is 1; the largest is not used. */
#ifndef DAEMON_CONFIG_TABLE_H
#define DAEMON_CONFIG_TABLE_H

#include "daemon/config.h"

#define S DAEMON_CMD_SERVE
#define P DAEMON_CMD_PREFILL
#define D DAEMON_CMD_DECODE
#define W (DAEMON_CMD_PREFILL | DAEMON_CMD_DECODE)
#define A (DAEMON_CMD_SERVE | DAEMON_CMD_PREFILL | DAEMON_CMD_DECODE)

/* clang-format off */
#define CONFIG_OPTIONS(X) \
    X(host,            TEXT, "127.0.0.1", 0, 0, "address", S, "HTTP", "address to listen on for clients") \
    X(port,            U32,  "8000", 0, 65535, "port", S, "HTTP", "port to listen on; 0 takes any free one") \
    X(allow_open,      BOOL, "false", 0, 1, "", S, "HTTP", "without API keys: listen beyond loopback, and answer under any host name") \
    X(cors,            BOOL, "false", 0, 1, "", S, "HTTP", "let browser pages of any origin use the API") \
    X(max_body_mib,    U32,  "8", 1, 1024, "MiB", S, "HTTP", "largest request body; larger ones get 413") \
    X(max_connections, U32,  "16384", 1, 1000000, "connections", S, "HTTP", "client connections at a time; more get 503") \
    X(n_max,           U32,  "16", 1, 16, "choices", S, "HTTP", "largest n of a request") \
    X(served_name,     TEXT, "", 0, 0, "name", A, "Model", "model name clients use; default: the last part of MODEL_DIR") \
    X(backend,         TEXT, "cpu", 0, 0, "name", A, "Model", "cpu, cuda (where it is built in), or sim (no weights, modelled times; for tests and planning)") \
    X(sim_profile,     TEXT, "", 0, 0, "file", A, "Model", "profile of modelled times for --backend sim; default: zero time") \
    X(threads,         U32,  "0", 0, 1024, "threads", A, "Model", "compute threads per worker; 0: serve shares the cores among its workers") \
    X(tp,              U32,  "1", 1, 64, "ranks", A, "Model", "ranks that share the model of one worker (tensor parallelism); has to divide its heads and its feed-forward width") \
    X(prefill_tp,      U32,  "0", 0, 64, "ranks", S, "Model", "tp of the prefill workers; 0: that of tp") \
    X(decode_tp,       U32,  "0", 0, 64, "ranks", S, "Model", "tp of the decode workers; 0: that of tp") \
    X(max_context,     U32,  "0", 0, 16777216, "tokens", A, "Model", "longest prompt + completion; 0: the model's own") \
    X(max_batch,       U32,  "64", 1, 4096, "requests", A, "Model", "most requests decoded together") \
    X(max_step_tokens, U32,  "512", 16, 65536, "tokens", A, "Model", "most prompt tokens computed in one step (chunked prefill)") \
    X(load_timeout_s,  U32,  "300", 0, 86400, "s", A, "Model", "a worker whose model load makes no progress for so long ends, and is started anew; 0: no limit") \
    X(device,          TEXT, "", 1, 0, "list", A, "Devices", "devices for --backend cuda, dealt out to workers in their order, as many to each as it has ranks, over again at the end; default: 0,1,... for every worker") \
    X(gpu_memory,      TEXT, "", 1, 0, "share", A, "Devices", "share of a device's memory to take, of which serve gives equal parts to the workers on it; default: 0.9") \
    X(kv_blocks,       U32,  "0", 0, 268435455, "blocks", A, "Devices", "KV pool of one worker in device memory; 0: what its share has left, at most a full batch of max_context") \
    X(weights,         TEXT, "stored", 1, 0, "name", A, "Devices", "stored (as in the files), fp8 or int8: weights on the device, rounded while they load") \
    X(random_weights,  U32,  "0", 0, 4294967295, "seed", A, "Devices", "for measurements: random weights of config.json's shape from this seed; 0: those of MODEL_DIR") \
    X(step_timeout_s,  U32,  "60", 1, 3600, "s", A, "Devices", "a device that takes longer for one step is broken: its worker ends and is started anew") \
    X(block_tokens,    U32,  "16", 1, 1024, "tokens", A, "KV cache", "tokens per KV block; must be equal on all workers") \
    X(kv_mib,          U32,  "0", 0, 16777216, "MiB", A, "KV cache", "KV pool of one worker in host memory; 0: a full batch of max_context, within 256 MiB or four requests") \
    X(kv_transports,   TEXT, "", 0, 0, "list", A, "KV cache", "UCX transports for the hand-over, for example tcp or posix,sysv,tcp; default: what UCX finds") \
    X(kv_host,         TEXT, "", 0, 0, "address", A, "KV cache", "address for KV traffic; default: that of --listen-workers, or where the scheduler is reached from") \
    X(kv_port,         U32,  "0", 0, 65535, "port", W, "KV cache", "port for KV traffic; 0: any") \
    X(park_mib,        U32,  "0", 0, 16777216, "MiB", A, "KV cache", "host memory of a decode worker for KV that it sets aside for a while; 0: as much as its pool, at most an eighth of memory") \
    X(prefill,         U32,  "1", 0, 64, "workers", S, "Workers", "prefill workers to start on this machine") \
    X(decode,          U32,  "1", 0, 64, "workers", S, "Workers", "decode workers to start on this machine") \
    X(listen_workers,  TEXT, "", 0, 0, "HOST:PORT", S, "Workers", "also take workers from other hosts here; needs --secret-file") \
    X(scheduler,       TEXT, "", 0, 0, "address", W, "Workers", "where `baton serve` takes workers: HOST:PORT or unix:PATH") \
    X(secret_file,     TEXT, "", 0, 0, "file", A, "Workers", "file with the secret that workers and scheduler share (16 to 256 bytes)") \
    X(name,            TEXT, "", 0, 0, "name", W, "Workers", "name of this worker in logs and metrics") \
    X(worker_class,    TEXT, "", 0, 0, "name", A, "Workers", "workers of one class (model, kind of machine) share what is learned of their speed; default: MODEL/BACKEND, and /tpN where tp is above 1") \
    X(exit_with_parent,BOOL, "false", 0, 1, "", W, "Workers", "end when the parent process or the scheduler connection ends") \
    X(heartbeat_ms,    U32,  "100", 10, 10000, "ms", S, "Workers", "how often workers report") \
    X(peer_timeout_ms, U32,  "3000", 100, 600000, "ms", S, "Workers", "a worker silent for so long is lost (a dead one is noticed at once)") \
    X(default_tier,    TEXT, "", 0, 0, "tier", S, "Scheduling", "tier of requests without API key that ask for none; default: the second") \
    X(policy,          TEXT, "baton", 0, 0, "name", S, "Scheduling", "who decides where, when and whether a request runs; the others are baselines to compare with") \
    X(class_file,      TEXT, "", 0, 0, "list", S, "Scheduling", "profiles of worker classes that predictions start from, for example a.yaml,b.yaml; they learn on") \
    X(local_prefill,   BOOL, "true", 0, 1, "", S, "Scheduling", "let a decode worker compute a prompt itself where that is better") \
    X(elastic,         BOOL, "false", 0, 1, "", S, "Scheduling", "let idle workers change between prefill and decode as the load shifts") \
    X(elastic_interval_ms, U32, "1000", 100, 600000, "ms", S, "Scheduling", "how often the planner looks") \
    X(elastic_cooldown_ms, U32, "10000", 100, 86400000, "ms", S, "Scheduling", "shortest time between two role changes; doubled by each reversal") \
    X(elastic_min_prefill, U32, "1", 1, 1000, "workers", S, "Scheduling", "prefill workers that stay such") \
    X(elastic_min_decode, U32, "1", 1, 1000, "workers", S, "Scheduling", "decode workers that stay such") \
    X(scale_command,   TEXT, "", 0, 0, "program", S, "Scheduling", "run as PROGRAM WANT_PREFILL WANT_DECODE HAVE_PREFILL HAVE_DECODE when the planner wants other counts") \
    X(max_queued,      U32,  "4096", 1, 10000000, "requests", S, "Scheduling", "requests waiting for a worker; more get 429") \
    X(max_queued_tokens, U32, "16777216", 1, 4294967295, "tokens", S, "Scheduling", "their prompt tokens; more get 429") \
    X(prefill_window_tokens, U32, "2048", 1, 16777216, "tokens", S, "Scheduling", "prompt tokens sent to a prefill worker ahead of its work; two steps at least") \
    X(queue_timeout_s, U32,  "120", 1, 86400, "s", S, "Scheduling", "longest wait for a worker, then 503") \
    X(request_timeout_s, U32, "600", 1, 86400, "s", S, "Scheduling", "longest time of one request, then 504") \
    X(handover_timeout_s, U32, "10", 1, 3600, "s", S, "Scheduling", "longest time of one KV hand-over, then it is tried anew") \
    X(drain_timeout_s, U32,  "30", 0, 86400, "s", S, "Scheduling", "on SIGTERM: how long running requests may go on") \
    X(admin_key_file,  TEXT, "", 0, 0, "file", S, "Records", "file with a key for /admin (16 to 256 bytes); keys with `admin: true` may use it too") \
    X(records,         TEXT, "", 0, 0, "file", S, "Records", "append one JSON line per request here, without its text") \
    X(records_kept,    U32,  "1024", 1, 100000, "requests", S, "Records", "records held for /admin/requests") \
    X(log_level,       TEXT, "info", 0, 0, "level", A, "Log", "error, warn, info or debug") \
    X(log_format,      TEXT, "text", 0, 0, "format", A, "Log", "text or json")
/* clang-format on */

enum config_type { CONFIG_TEXT = 1, CONFIG_U32, CONFIG_BOOL };

struct config_option {
    const char *name; /* with underscores */
    enum config_type type;
    size_t offset;
    const char *fallback; /* default */
    uint64_t min, max;
    const char *unit;
    unsigned commands;
    const char *group;
    const char *help;
};

enum {
#define X(field, ...) CONFIG_OPT_##field,
    CONFIG_OPTIONS(X)
#undef X
        CONFIG_N_OPTIONS
};

extern const struct config_option config_options[CONFIG_N_OPTIONS];

/* ---- sections of the file: lists of entries, each entry a few fields ---- */

enum config_field_type {
    CONFIG_FIELD_TEXT = 1, /* read by the code of its section */
    CONFIG_FIELD_MS,       /* milliseconds, to ns in a uint64_t */
    CONFIG_FIELD_REAL,     /* double */
    CONFIG_FIELD_COUNT     /* uint32_t */
};
enum { CONFIG_FIELDS_MAX = 12 };

struct config_field {
    const char *name;
    enum config_field_type type;
    size_t offset;        /* of a number in the struct of its section */
    const char *fallback; /* NULL: required; "": nothing, or as the help says */
    double min, max;
    const char *range; /* of a text */
    const char *help;
};
struct config_section {
    const char *name;
    const char *help;
    unsigned min, max; /* entries */
    const struct config_field *fields;
    unsigned n_fields;
};
enum { CONFIG_SECTION_TIERS, CONFIG_SECTION_TENANTS, CONFIG_SECTION_KEYS, CONFIG_N_SECTIONS };
extern const struct config_section config_sections[CONFIG_N_SECTIONS];

/* What stands in the file: texts in the order of the fields, NULL where absent. */
struct config_entry {
    char *v[CONFIG_FIELDS_MAX];
};
struct config_source {
    const char *path;
    char *text;
    size_t len;
};

/* Set one option from text.  ERR_INVALID with `where` and the allowed range in msg. */
MUST_USE enum err config_set(struct daemon_config *c, const struct config_option *o,
                             const char *text, const char *where, struct err_msg *msg);

/* config_sections.c: take what stands in a section. */
MUST_USE enum err config_take_tiers(const struct config_source *s, const struct config_entry *v,
                                    unsigned n, struct daemon_config *c, struct err_msg *msg);
MUST_USE enum err config_take_tenants(const struct config_source *s, const struct config_entry *v,
                                      unsigned n, struct daemon_config *c, struct err_msg *msg);
/* After tiers and tenants. */
MUST_USE enum err config_take_keys(const struct config_source *s, const struct config_entry *v,
                                   unsigned n, struct daemon_config *c, struct err_msg *msg);
void config_print_sections(const struct daemon_config *c, FILE *to);
void config_reference_sections(FILE *to);

/* config_file.c: "FILE, line N" of a key at the top (item < 0) or of the item-th entry of a section. */
void config_place(const struct config_source *s, const char *section, int item, const char *key,
                  char *out, size_t room);
/* The same for an option, from the path alone; the path where the file does not name it. */
void config_locate(const char *path, const char *option, char *out, size_t room);
/* config_files.c: ERR_NOT_FOUND and what is wrong in a class file; *option: who named it. */
MUST_USE enum err config_check_files(const struct daemon_config *c, const char **option,
                                     struct err_msg *msg);
/* config_file.c: the file's values over what c holds. */
MUST_USE enum err config_read_file(const char *path, struct daemon_config *c, struct err_msg *msg);

#endif
