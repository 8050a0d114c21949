/* daemon/gen.c - see the header for the contract. */
#include "daemon/gen.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"

void daemon_gen_init(struct daemon_gen *g, uint64_t id, const struct daemon_gen_config *c)
{
    *g = (struct daemon_gen){.id = id, .epoch = 1, .c = *c};
    g->stop = (struct daemon_stop){
        .strings = c->stop, .lens = c->stop_len, .n = c->n_stop, .keep = c->keep_stop};
    if (c->tok != NULL)
        engine_detok_init(&g->detok, c->tok, c->continues);
}

static void drop_early(struct daemon_gen *g)
{
    for (uint32_t i = 0; i < g->n_early; i++)
        mem_free(g->early[i].top);
    g->n_early = 0;
}

void daemon_gen_set_epoch(struct daemon_gen *g, uint32_t epoch)
{
    g->epoch = epoch;
    drop_early(g);
}

const char *daemon_gen_piece(const struct engine_tok *tok, int32_t id, bool with_special,
                             char scratch[16], size_t *len)
{
    if (tok != NULL)
        return engine_tok_piece(tok, id, with_special, len);
    *len = (size_t)snprintf(scratch, 16, " %d", (int)id);
    return scratch;
}

static enum err grow(struct daemon_token **v, uint32_t n, uint32_t *cap)
{
    struct daemon_token *grown;
    uint32_t next = *cap == 0 ? 16 : *cap * 2;

    if (n < *cap)
        return ERR_OK;
    grown = mem_try_realloc(*v, (size_t)next * sizeof(*grown));
    if (grown == NULL)
        return ERR_NOMEM;
    *v = grown;
    *cap = next;
    return ERR_OK;
}

static enum err push_text(struct daemon_gen *g, int32_t id, bool *stopped)
{
    struct buf piece = BUF_INIT;
    char scratch[16];
    enum err err;

    if (g->c.tok != NULL) {
        err = engine_detok_push(&g->detok, g->c.tok, id, g->c.with_special, &piece);
    } else {
        size_t len;
        const char *bytes = daemon_gen_piece(NULL, id, true, scratch, &len);

        err = buf_append(&piece, bytes, len);
    }
    *stopped = false;
    if (err == ERR_OK && piece.len > 0) {
        if (g->n_log <= g->c.min_tokens && g->c.min_tokens > 0)
            err = buf_append(&g->text, buf_bytes(&piece), piece.len);
        else
            err = daemon_stop_push(&g->stop, buf_bytes(&piece), piece.len, &g->text, stopped);
    }
    buf_free(&piece);
    return err;
}

static enum err finish_text(struct daemon_gen *g)
{
    struct buf rest = BUF_INIT;
    bool hit = false;
    enum err err = ERR_OK;

    if (g->c.tok != NULL)
        err = engine_detok_finish(&g->detok, &rest);
    if (err == ERR_OK && rest.len > 0)
        err = daemon_stop_push(&g->stop, buf_bytes(&rest), rest.len, &g->text, &hit);
    if (err == ERR_OK && !hit)
        err = daemon_stop_finish(&g->stop, &g->text);
    buf_free(&rest);
    return err;
}

/* The next token in turn joins the log. */
static enum err accept(struct daemon_gen *g, const struct daemon_token *t)
{
    bool stopped = false;
    enum err err = grow(&g->log, g->n_log, &g->cap_log);

    if (err != ERR_OK) {
        mem_free(t->top);
        return err;
    }
    g->log[g->n_log++] = *t;
    if (t->finish != 1 || g->c.keep_stop)
        err = push_text(g, t->id, &stopped);
    if (err != ERR_OK)
        return err;
    if (stopped) {
        g->finish = DAEMON_FINISH_STOP;
        g->by_stop_string = t->finish == 0;
    } else if (t->finish != 0) {
        g->finish = t->finish == 1 ? DAEMON_FINISH_STOP : DAEMON_FINISH_LENGTH;
        err = finish_text(g);
    }
    return err;
}

static enum err keep_early(struct daemon_gen *g, const struct daemon_token *t)
{
    enum err err;

    for (uint32_t i = 0; i < g->n_early; i++) {
        if (g->early[i].index == t->index) {
            mem_free(t->top);
            g->late++;
            return ERR_OK;
        }
    }
    err = grow(&g->early, g->n_early, &g->cap_early);
    if (err != ERR_OK)
        return err;
    g->early[g->n_early++] = *t;
    return ERR_OK;
}

/* Take the early token whose turn it is, if it is there. */
static bool next_early(struct daemon_gen *g, struct daemon_token *out)
{
    for (uint32_t i = 0; i < g->n_early; i++) {
        if (g->early[i].index == g->n_log) {
            *out = g->early[i];
            g->early[i] = g->early[--g->n_early];
            return true;
        }
    }
    return false;
}

enum err daemon_gen_take(struct daemon_gen *g, uint32_t epoch, struct daemon_token *t,
                         uint32_t *accepted)
{
    struct daemon_token next = *t;
    enum err err;

    t->top = NULL;
    *accepted = 0;
    if (epoch != g->epoch || g->finish != DAEMON_FINISH_NONE || next.index < g->n_log) {
        mem_free(next.top);
        g->late++;
        return ERR_OK;
    }
    if (next.index > g->n_log) {
        err = keep_early(g, &next);
        if (err != ERR_OK)
            mem_free(next.top);
        return err;
    }
    do {
        err = accept(g, &next);
        if (err != ERR_OK)
            return err;
        ++*accepted;
    } while (g->finish == DAEMON_FINISH_NONE && next_early(g, &next));
    return ERR_OK;
}

void daemon_gen_fini(struct daemon_gen *g)
{
    drop_early(g);
    for (uint32_t i = 0; i < g->n_log; i++)
        mem_free(g->log[i].top);
    mem_free(g->log);
    mem_free(g->early);
    buf_free(&g->text);
    daemon_stop_free(&g->stop);
}
