/* daemon/http_route.c - from a parsed head to a route, or to the reason why not.
 *
 * The order is fixed: path, method, key, host, origin, media type.  The key is asked for by a column of the route
 * table, never by looking at the path again. */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "daemon/http_internal.h"

static const struct http_refusal no_route = {404, "invalid_request_error", "not_found",
                                             "There is nothing at this path."};
static const struct http_refusal no_method = {405, "invalid_request_error", "method_not_allowed",
                                              "This path does not know that method."};
static const struct http_refusal no_key = {
    401, "authentication_error", "invalid_api_key",
    "Incorrect API key provided. Send it as 'Authorization: Bearer KEY'."};
static const struct http_refusal no_origin = {
    403, "authentication_error", "origin_not_allowed",
    "Pages of other origins may not use this server: configure API keys, or start it with --cors."};
static const struct http_refusal no_host = {
    403, "authentication_error", "host_not_allowed",
    "Without API keys this server answers under the names of this machine alone (localhost, "
    "127.0.0.1): "
    "use one of them, configure API keys, or start it with --allow-open."};
static const struct http_refusal no_json = {
    415, "invalid_request_error", "unsupported_media_type",
    "The body must be JSON: send 'Content-Type: application/json' and no Content-Encoding."};

static bool path_matches(const struct http_route *r, const char *path)
{
    size_t n = strlen(r->path);

    if (n >= 2 && r->path[n - 1] == '*' && r->path[n - 2] == '/')
        return strncmp(r->path, path, n - 1) == 0 && path[n - 1] != '\0';
    return strcmp(r->path, path) == 0;
}

static bool method_matches(const struct http_route *r, const char *method)
{
    return strcmp(r->method, method) == 0 ||
           (strcmp(method, "HEAD") == 0 && strcmp(r->method, "GET") == 0);
}

void http_route_methods(const struct http_server *s, const char *path, char *out, size_t size)
{
    size_t at = 0;

    out[0] = '\0';
    for (uint32_t i = 0; i < s->config.n_routes && at + 24 < size; i++) {
        const struct http_route *r = &s->config.routes[i];

        if (!path_matches(r, path) && strcmp(path, "*") != 0)
            continue;
        if (strstr(out, r->method) != NULL)
            continue;
        at += (size_t)snprintf(out + at, size - at, "%s%s", at > 0 ? ", " : "", r->method);
        if (strcmp(r->method, "GET") == 0)
            at += (size_t)snprintf(out + at, size - at, ", HEAD");
    }
    if (s->config.cors && at + 12 < size)
        snprintf(out + at, size - at, "%sOPTIONS", at > 0 ? ", " : "");
}

static bool authorized(struct http_conn *c)
{
    const struct http_config *config = &c->server->config;
    const char *key = http_parse_field(&c->parse, "authorization");

    if (!c->x.route->needs_key || config->authorize == NULL)
        return true;
    if (key != NULL && strncasecmp(key, "Bearer ", 7) == 0) {
        for (key += 7; *key == ' '; key++)
            continue;
    } else {
        key = http_parse_field(&c->parse, "x-api-key");
    }
    return config->authorize(config->arg, key, key != NULL ? strlen(key) : 0, &c->x.principal);
}

/* A page whose name was made to point here (DNS rebinding) is of our own origin to its browser, which then
 * names none when it reads; the name it used is all that tells. */
static bool host_allowed(struct http_conn *c)
{
    const struct http_config *config = &c->server->config;
    const char *host = http_parse_field(&c->parse, "host");

    return host == NULL || !c->x.route->needs_key || config->host_ok == NULL ||
           config->host_ok(config->arg, host);
}

/* Browsers say which page asks, at least when it is one of another origin or when it posts. */
static bool origin_allowed(struct http_conn *c)
{
    const struct http_config *config = &c->server->config;
    const char *origin = http_parse_field(&c->parse, "origin");

    return origin == NULL || !c->x.route->needs_key || config->origin_ok == NULL ||
           config->origin_ok(config->arg, origin);
}

/* application/json, application/x+json, text/json.  Absent is taken as JSON; what a browser sends from a
 * form without asking first is not, so that a foreign page cannot post here. */
static bool media_type_ok(const struct http_parse *p)
{
    const char *type = http_parse_field(p, "content-type");
    const char *coding = http_parse_field(p, "content-encoding");
    size_t n;

    if (coding != NULL && strcasecmp(coding, "identity") != 0)
        return false;
    if (type == NULL)
        return true;
    n = strcspn(type, "; \t");
    if (n == 9 && strncasecmp(type, "text/json", n) == 0)
        return true;
    if (n < 16 || strncasecmp(type, "application/", 12) != 0)
        return false;
    return (n == 16 && strncasecmp(type + 12, "json", 4) == 0) ||
           (n > 17 && strncasecmp(type + n - 5, "+json", 5) == 0);
}

static const struct http_refusal *choose(struct http_conn *c)
{
    const struct http_server *s = c->server;
    const struct http_parse *p = &c->parse;
    bool path_known = strcmp(p->path, "*") == 0;

    for (uint32_t i = 0; i < s->config.n_routes && c->x.route == NULL; i++) {
        const struct http_route *r = &s->config.routes[i];

        if (!path_matches(r, p->path))
            continue;
        path_known = true;
        if (method_matches(r, p->method))
            c->x.route = r;
    }
    if (!path_known)
        return &no_route;
    if (c->x.route == NULL) {
        c->x.preflight = s->config.cors && strcmp(p->method, "OPTIONS") == 0;
        return c->x.preflight ? NULL : &no_method;
    }
    if (!authorized(c))
        return &no_key;
    if (!host_allowed(c))
        return &no_host;
    if (!origin_allowed(c))
        return &no_origin;
    if (strcmp(p->method, "POST") == 0 && !media_type_ok(p))
        return &no_json;
    return NULL;
}

void http_route_head(struct http_conn *c)
{
    c->x.refusal = choose(c);
}
