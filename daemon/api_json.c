/* daemon/api_json.c - see the header for the contract.
 *
 * One pass over the text.  The open containers are a stack of node indices, so depth costs no C stack.
 * Escaped strings are decoded once, into a block that can hold the rest of the text: a decoded string
 * is never longer than its source, so one allocation does for all of them. */
#include "daemon/api_json.h"

#include <endian.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "daemon/api_utf8.h"

struct reader {
    const uint8_t *start;
    const uint8_t *p;
    const uint8_t *end;
    struct api_json *doc;
    const char *why;
    enum api_json_fault fault;
    bool nomem;
    uint32_t depth;
    uint32_t open[API_JSON_DEPTH_MAX]; /* node index of each open container, outermost first */
};

static bool fail(struct reader *r, const char *why)
{
    r->why = why;
    return false;
}

static bool refuse(struct reader *r, enum api_json_fault fault, const char *why)
{
    r->fault = fault;
    return fail(r, why);
}

static bool fail_nomem(struct reader *r)
{
    r->nomem = true;
    return false;
}

static bool grow(struct reader *r)
{
    struct api_json *doc = r->doc;
    uint32_t cap = doc->cap * 2;
    struct api_node *nodes;

    if (doc->n_nodes >= API_JSON_NODES_MAX)
        return refuse(r, API_JSON_TOO_COMPLEX, "it has too many values");
    nodes = mem_try_realloc(doc->nodes, (size_t)cap * sizeof(*nodes));
    if (nodes == NULL)
        return fail_nomem(r);
    doc->nodes = nodes;
    doc->cap = cap;
    return true;
}

static inline bool is_full(const struct api_json *doc)
{
    return doc->n_nodes == doc->cap || doc->n_nodes >= API_JSON_NODES_MAX;
}

static struct api_node *push(struct reader *r, enum api_json_type type)
{
    struct api_json *doc = r->doc;
    struct api_node *node;

    if (is_full(doc) && !grow(r))
        return NULL;
    node = &doc->nodes[doc->n_nodes++];
    *node = (struct api_node){.type = (uint8_t)type};
    return node;
}

static void skip_space(struct reader *r)
{
    while (r->p < r->end && (*r->p == ' ' || *r->p == '\n' || *r->p == '\r' || *r->p == '\t'))
        r->p++;
}

/* ---- numbers ---- */
static bool is_digit(uint8_t c)
{
    return c >= '0' && c <= '9';
}

static bool skip_digits(struct reader *r)
{
    const uint8_t *from = r->p;

    while (r->p < r->end && is_digit(*r->p))
        r->p++;
    return r->p > from;
}

/* Fraction and exponent, behind the integer part. */
static bool skip_real_tail(struct reader *r)
{
    if (r->p < r->end && *r->p == '.') {
        r->p++;
        if (!skip_digits(r))
            return fail(r, "a number ends with its decimal point");
    }
    if (r->p < r->end && (*r->p == 'e' || *r->p == 'E')) {
        r->p++;
        if (r->p < r->end && (*r->p == '+' || *r->p == '-'))
            r->p++;
        if (!skip_digits(r))
            return fail(r, "a number has an empty exponent");
    }
    return true;
}

static bool read_number(struct reader *r)
{
    const uint8_t *from = r->p;
    bool negative = *r->p == '-', fits = true;
    uint64_t value = 0;
    struct api_node *node;

    r->p += negative;
    if (r->p == r->end || !is_digit(*r->p))
        return fail(r, "a number has no digits");
    if (*r->p == '0') {
        r->p++;
    } else {
        for (; r->p < r->end && is_digit(*r->p); r->p++) {
            uint64_t digit = (uint64_t)(*r->p - '0');

            fits = fits && value <= (UINT64_MAX - digit) / 10;
            value = value * 10 + digit;
        }
    }
    fits = fits && value <= (uint64_t)INT64_MAX + negative;
    if (r->p < r->end && (*r->p == '.' || *r->p == 'e' || *r->p == 'E')) {
        if (!skip_real_tail(r))
            return false;
    } else if (fits) {
        node = push(r, API_JSON_INT);
        if (node == NULL)
            return false;
        node->i = negative ? (int64_t)(0 - value) : (int64_t)value;
        return true;
    } else {
        fits = false;
        node = push(r, API_JSON_REAL);
        if (node == NULL)
            return false;
        node->too_big = true;
        node->at = (uint32_t)(from - r->start);
        node->n = (uint32_t)(r->p - from);
        return true;
    }
    node = push(r, API_JSON_REAL);
    if (node == NULL)
        return false;
    node->at = (uint32_t)(from - r->start);
    node->n = (uint32_t)(r->p - from);
    return true;
}

/* ---- strings ---- */
/* Four hex digits at r->p, which moves behind them; negative if they are not. */
static int32_t read_hex4(struct reader *r)
{
    int32_t value = 0;

    if (r->end - r->p < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        uint8_t c = *r->p++;

        if (is_digit(c))
            value = value * 16 + (c - '0');
        else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
            value = value * 16 + ((c | 0x20) - 'a' + 10);
        else
            return -1;
    }
    return value;
}

static char *put_utf8(char *to, uint32_t c)
{
    if (c < 0x80) {
        *to++ = (char)c;
    } else if (c < 0x800) {
        *to++ = (char)(0xc0 | c >> 6);
        *to++ = (char)(0x80 | (c & 0x3f));
    } else if (c < 0x10000) {
        *to++ = (char)(0xe0 | c >> 12);
        *to++ = (char)(0x80 | (c >> 6 & 0x3f));
        *to++ = (char)(0x80 | (c & 0x3f));
    } else {
        *to++ = (char)(0xf0 | c >> 18);
        *to++ = (char)(0x80 | (c >> 12 & 0x3f));
        *to++ = (char)(0x80 | (c >> 6 & 0x3f));
        *to++ = (char)(0x80 | (c & 0x3f));
    }
    return to;
}

/* r->p is behind "\u". */
static char *read_unicode_escape(struct reader *r, char *to, bool *has_nul)
{
    int32_t low, c = read_hex4(r);

    if (c < 0) {
        fail(r, "a \\u escape is not four hexadecimal digits");
        return NULL;
    }
    if (c >= 0xd800 && c <= 0xdfff) {
        low = -1;
        if (c < 0xdc00 && r->end - r->p >= 2 && r->p[0] == '\\' && r->p[1] == 'u') {
            r->p += 2;
            low = read_hex4(r);
        }
        if (low < 0xdc00 || low > 0xdfff) {
            fail(r, "a surrogate has no partner");
            return NULL;
        }
        c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
    }
    *has_nul = *has_nul || c == 0;
    return put_utf8(to, (uint32_t)c);
}

/* r->p is at a backslash. */
static char *read_escape(struct reader *r, char *to, bool *has_nul)
{
    static const char from[] = "\"\\/bfnrt", into[] = "\"\\/\b\f\n\r\t";
    const char *hit;

    if (r->end - r->p < 2) {
        fail(r, "a string does not end");
        return NULL;
    }
    r->p++;
    if (*r->p == 'u') {
        r->p++;
        return read_unicode_escape(r, to, has_nul);
    }
    hit = *r->p != '\0' ? strchr(from, *r->p) : NULL;
    if (hit == NULL) {
        fail(r, "a string has an unknown escape");
        return NULL;
    }
    r->p++;
    *to++ = into[hit - from];
    return to;
}

static inline bool is_plain(uint8_t c)
{
    return c >= 0x20 && c < 0x80 && c != '"' && c != '\\';
}

/* Eight bytes at once: true if all are plain.  The classic test for a zero byte, on four shifted views. */
static inline bool eight_plain(const uint8_t *p)
{
    const uint64_t ones = 0x0101010101010101ull, highs = 0x8080808080808080ull;
    uint64_t w, quote, back;

    memcpy(&w, p, sizeof(w));
    quote = w ^ (ones * '"');
    back = w ^ (ones * '\\');
    return (((w - ones * 0x20) | w | ((quote - ones) & ~quote) | ((back - ones) & ~back)) &
            highs) == 0;
}

/* Step over characters that stand for themselves.  r->p ends at '"', '\\' or the end. */
static bool skip_plain(struct reader *r)
{
    for (;;) {
        unsigned n;

        while (r->end - r->p >= 8 && eight_plain(r->p))
            r->p += 8;
        while (r->p < r->end && is_plain(*r->p))
            r->p++;
        if (r->p == r->end || *r->p == '"' || *r->p == '\\')
            return true;
        if (*r->p < 0x20)
            return fail(r, "a string contains a raw control character");
        n = api_utf8_step(r->p, r->end);
        if (n == 0)
            return fail(r, "a string is not valid UTF-8");
        r->p += n;
    }
}

static bool read_decoded(struct reader *r, const uint8_t *from, uint32_t at)
{
    struct api_json *doc = r->doc;
    char *to;

    if (doc->decoded == NULL) {
        doc->decoded = mem_try_alloc((size_t)(r->end - from) + 1);
        if (doc->decoded == NULL)
            return fail_nomem(r);
    }
    to = doc->decoded + doc->decoded_len;
    doc->nodes[at].decoded = true;
    doc->nodes[at].at = (uint32_t)doc->decoded_len;
    for (;;) {
        bool has_nul = false;

        memcpy(to, from, (size_t)(r->p - from));
        to += r->p - from;
        if (r->p == r->end)
            return fail(r, "a string does not end");
        if (*r->p == '"')
            break;
        to = read_escape(r, to, &has_nul);
        if (to == NULL)
            return false;
        doc->nodes[at].has_nul = doc->nodes[at].has_nul || has_nul;
        from = r->p;
        if (!skip_plain(r))
            return false;
    }
    doc->nodes[at].n = (uint32_t)(to - (doc->decoded + doc->decoded_len));
    doc->decoded_len = (size_t)(to - doc->decoded);
    r->p++;
    return true;
}

/* r->p is at the opening quote. */
static bool read_string(struct reader *r)
{
    struct api_node *node = push(r, API_JSON_STRING);
    const uint8_t *from = ++r->p;

    if (node == NULL || !skip_plain(r))
        return false;
    if (r->p == r->end)
        return fail(r, "a string does not end");
    if (*r->p == '\\')
        return read_decoded(r, from, r->doc->n_nodes - 1);
    node->at = (uint32_t)(from - r->start);
    node->n = (uint32_t)(r->p - from);
    r->p++;
    return true;
}

/* ---- containers ---- */
static int key_order(const struct api_json *doc, uint32_t a, uint32_t b)
{
    size_t la, lb;
    const char *sa = api_json_string(doc, a, &la), *sb = api_json_string(doc, b, &lb);

    if (la != lb)
        return la < lb ? -1 : 1;
    return memcmp(sa, sb, la);
}

static void sift_down(const struct api_json *doc, uint32_t *keys, uint32_t at, uint32_t n)
{
    uint32_t child, moved = keys[at];

    while ((child = 2 * at + 1) < n) {
        if (child + 1 < n && key_order(doc, keys[child + 1], keys[child]) > 0)
            child++;
        if (key_order(doc, keys[child], moved) <= 0)
            break;
        keys[at] = keys[child];
        at = child;
    }
    keys[at] = moved;
}

/* Heap sort, then equal keys are neighbours: no hash, so nobody can choose keys that collide. */
static bool keys_unique(const struct api_json *doc, uint32_t object)
{
    uint32_t keys[API_JSON_KEYS_MAX], n = 0;
    uint32_t count = doc->nodes[object].n;

    for (uint32_t i = object + 1; n < count; i = api_json_next(doc, i + 1))
        keys[n++] = i;
    if (n <= 12) {
        for (uint32_t i = 1; i < n; i++) {
            for (uint32_t k = 0; k < i; k++) {
                if (key_order(doc, keys[i], keys[k]) == 0)
                    return false;
            }
        }
        return true;
    }
    for (uint32_t i = n / 2; i-- > 0;)
        sift_down(doc, keys, i, n);
    for (uint32_t last = n; last-- > 1;) {
        uint32_t top = keys[0];

        keys[0] = keys[last];
        keys[last] = top;
        sift_down(doc, keys, 0, last);
    }
    for (uint32_t i = 1; i < n; i++) {
        if (key_order(doc, keys[i - 1], keys[i]) == 0)
            return false;
    }
    return true;
}

static bool open_container(struct reader *r, enum api_json_type type)
{
    if (r->depth == API_JSON_DEPTH_MAX)
        return refuse(r, API_JSON_TOO_COMPLEX, "it is nested too deeply");
    if (push(r, type) == NULL)
        return false;
    r->open[r->depth++] = r->doc->n_nodes - 1;
    r->p++;
    return true;
}

static bool close_container(struct reader *r)
{
    uint32_t at = r->open[--r->depth];

    r->doc->nodes[at].end = r->doc->n_nodes;
    r->p++;
    if (r->doc->nodes[at].type == API_JSON_OBJECT && !keys_unique(r->doc, at))
        return refuse(r, API_JSON_DUPLICATE_KEY, "an object has the same key twice");
    return true;
}

static bool read_key(struct reader *r)
{
    struct api_node *object = &r->doc->nodes[r->open[r->depth - 1]];

    skip_space(r);
    if (r->p == r->end || *r->p != '"')
        return fail(r, "an object key must be a string");
    if (object->n == API_JSON_KEYS_MAX)
        return refuse(r, API_JSON_TOO_COMPLEX, "an object has too many keys");
    object->n++;
    if (!read_string(r))
        return false;
    skip_space(r);
    if (r->p == r->end || *r->p != ':')
        return fail(r, "a colon is missing behind a key");
    r->p++;
    return true;
}

static bool read_word(struct reader *r, const char *word, enum api_json_type type, int64_t value)
{
    size_t n = strlen(word);
    struct api_node *node;

    if ((size_t)(r->end - r->p) < n || memcmp(r->p, word, n) != 0)
        return fail(r, "a value is not JSON");
    node = push(r, type);
    if (node == NULL)
        return false;
    node->i = value;
    r->p += n;
    return true;
}

/* The container just opened may be empty; if it is not, an object wants its first key. */
static bool enter(struct reader *r, uint8_t closer, bool *opened)
{
    skip_space(r);
    *opened = true;
    if (r->p < r->end && *r->p == closer) {
        *opened = false;
        return close_container(r);
    }
    return closer == ']' || read_key(r);
}

/* How many digits stand at p, 1 to 7, and their value; 0: none, or more.  Eight bytes at once, since a loop over
 * digits of which there are now three and now four is mispredicted half of the time: digits become 0 to 9 and all
 * else more; what is behind them is shifted out, as if zeros stood before; then neighbours are added up. */
static inline unsigned short_digits(const uint8_t *p, uint64_t *value)
{
    const uint64_t ones = 0x0101010101010101ull, fours = 0x000000ff000000ffull;
    uint64_t w, other;
    unsigned n;

    memcpy(&w, p, sizeof(w));
    w = le64toh(w) ^ (ones * '0');
    other = (w | (w + ones * 0x76)) & (ones * 0x80);
    n = other != 0 ? (unsigned)__builtin_ctzll(other) / 8 : 8;
    if (n == 0 || n == 8)
        return 0;
    w <<= 64 - 8 * n;
    w = w * 10 + (w >> 8);
    *value =
        ((w & fours) * (100 + (1000000ull << 32)) + (w >> 16 & fours) * (1 + (10000ull << 32))) >>
        32;
    return n;
}

/* The elements of an array as long as they are short integers with a comma behind: the bulk of a prompt of
 * token ids, without the general dispatch.  Whatever looks different is left where it is. */
static bool read_short_ints(struct reader *r)
{
    struct api_json *doc = r->doc;
    uint32_t array = r->open[r->depth - 1], before = doc->n_nodes;

    for (;;) {
        const uint8_t *p = r->p;
        uint64_t value;
        unsigned n;

        while (p < r->end && *p == ' ')
            p++;
        n = r->end - p >= 8 ? short_digits(p, &value) : 0;
        if (n == 0 || p[n] != ',' || (*p == '0' && n > 1))
            break;
        if (is_full(doc) && !grow(r))
            return false;
        doc->nodes[doc->n_nodes++] = (struct api_node){.type = API_JSON_INT, .i = (int64_t)value};
        r->p = p + n + 1;
    }
    doc->nodes[array].n += doc->n_nodes - before;
    return true;
}

/* One value, or the opening of one.  *opened: the next thing is the first element. */
static bool read_value(struct reader *r, bool *opened)
{
    *opened = false;
    skip_space(r);
    if (r->p == r->end)
        return fail(r, "it ends too early");
    if (r->depth > 0 && r->doc->nodes[r->open[r->depth - 1]].type == API_JSON_ARRAY) {
        if (is_digit(*r->p) && !read_short_ints(r))
            return false;
        skip_space(r);
        if (r->p == r->end)
            return fail(r, "it ends too early");
        r->doc->nodes[r->open[r->depth - 1]].n++;
    }
    switch (*r->p) {
    case '{':
        return open_container(r, API_JSON_OBJECT) && enter(r, '}', opened);
    case '[':
        return open_container(r, API_JSON_ARRAY) && enter(r, ']', opened);
    case '"':
        return read_string(r);
    case 't':
        return read_word(r, "true", API_JSON_BOOL, 1);
    case 'f':
        return read_word(r, "false", API_JSON_BOOL, 0);
    case 'n':
        return read_word(r, "null", API_JSON_NULL, 0);
    default:
        if (*r->p == '-' || is_digit(*r->p))
            return read_number(r);
        return fail(r, "a value is not JSON");
    }
}

/* Behind a value: close what ends here.  *more: a comma came, another value follows. */
static bool read_separator(struct reader *r, bool *more)
{
    *more = false;
    while (r->depth > 0) {
        bool object = r->doc->nodes[r->open[r->depth - 1]].type == API_JSON_OBJECT;

        skip_space(r);
        if (r->p == r->end)
            return fail(r, "it ends too early");
        if (*r->p == ',') {
            r->p++;
            *more = true;
            return !object || read_key(r);
        }
        if (*r->p != (object ? '}' : ']'))
            return fail(r, "a comma or a closing bracket is missing");
        if (!close_container(r))
            return false;
    }
    return true;
}

static bool read_text(struct reader *r)
{
    bool opened, more = true;

    while (more) {
        if (!read_value(r, &opened))
            return false;
        if (!opened && !read_separator(r, &more))
            return false;
    }
    skip_space(r);
    return r->p == r->end || fail(r, "something follows the value");
}

enum err api_json_parse(const char *text, size_t len, struct api_json *out,
                        struct api_json_error *error)
{
    struct api_json doc = {.text = text};
    struct reader r = {.doc = &doc};

    *error = (struct api_json_error){API_JSON_TOO_COMPLEX, 0, "it is too long"};
    if (len > API_JSON_TEXT_MAX)
        return ERR_INVALID;
    r.start = r.p = (const uint8_t *)text;
    r.end = r.start + len;
    doc.cap = len / 4 > 2048 ? 2048 : (uint32_t)(len / 4) + 16;
    doc.nodes = mem_try_alloc((size_t)doc.cap * sizeof(*doc.nodes));
    if (doc.nodes == NULL)
        return ERR_NOMEM;
    if (!read_text(&r)) {
        *error = (struct api_json_error){r.fault, (size_t)(r.p - r.start), r.why};
        api_json_free(&doc);
        return r.nomem ? ERR_NOMEM : ERR_INVALID;
    }
    *out = doc;
    return ERR_OK;
}

void api_json_free(struct api_json *doc)
{
    mem_free(doc->nodes);
    mem_free(doc->decoded);
    *doc = (struct api_json){0};
}

uint32_t api_json_next(const struct api_json *doc, uint32_t i)
{
    const struct api_node *node = &doc->nodes[i];

    return node->type == API_JSON_ARRAY || node->type == API_JSON_OBJECT ? node->end : i + 1;
}

const char *api_json_string(const struct api_json *doc, uint32_t i, size_t *len)
{
    const struct api_node *node = &doc->nodes[i];

    *len = node->n;
    return (node->decoded ? doc->decoded : doc->text) + node->at;
}

bool api_json_is(const struct api_json *doc, uint32_t i, const char *s)
{
    size_t len, want = strlen(s);
    const char *have;

    if (doc->nodes[i].type != API_JSON_STRING)
        return false;
    have = api_json_string(doc, i, &len);
    return len == want && memcmp(have, s, len) == 0;
}

uint32_t api_json_get(const struct api_json *doc, uint32_t object, const char *key)
{
    if (doc->nodes[object].type != API_JSON_OBJECT)
        return 0;
    for (uint32_t i = object + 1; i < doc->nodes[object].end; i = api_json_next(doc, i + 1)) {
        if (api_json_is(doc, i, key))
            return i + 1;
    }
    return 0;
}

enum err api_json_double(const struct api_json *doc, uint32_t i, double *out)
{
    const struct api_node *node = &doc->nodes[i];
    char small[64], *text = small;
    double value;

    if (node->type == API_JSON_INT) {
        *out = (double)node->i;
        return ERR_OK;
    }
    if (node->type != API_JSON_REAL)
        return ERR_INVALID;
    if (node->n >= sizeof(small)) {
        text = mem_try_strndup(doc->text + node->at, node->n);
        if (text == NULL)
            return ERR_NOMEM;
    } else {
        memcpy(small, doc->text + node->at, node->n);
        small[node->n] = '\0';
    }
    value = strtod(text, NULL);
    if (text != small)
        mem_free(text);
    if (!isfinite(value))
        return ERR_LIMIT;
    *out = value;
    return ERR_OK;
}
