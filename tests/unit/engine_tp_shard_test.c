/* tests/unit/engine_tp_shard_test.c - who holds what of a model: the shares of all ranks tile every matrix, and
 * a number that does not divide is named together with those that do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/tp/tp_shard.h"

static const struct engine_model_config llama8b = {.hidden = 4096,
                                                   .n_layers = 32,
                                                   .n_heads = 32,
                                                   .n_kv_heads = 8,
                                                   .head_dim = 128,
                                                   .ffn = 14336,
                                                   .vocab = 128256};
static const struct engine_model_config stories = {.hidden = 64,
                                                   .n_layers = 5,
                                                   .n_heads = 8,
                                                   .n_kv_heads = 4,
                                                   .head_dim = 8,
                                                   .ffn = 172,
                                                   .vocab = 512};
static const struct tp_grain one = {1, 1};

static struct tp_slice slice(const struct engine_model_config *m, struct tp_grain g, uint32_t rank,
                             uint32_t tp, enum tp_tensor tensor)
{
    struct err_msg msg = {""};
    struct tp_shard s;

    if (tp_shard_of(m, g, rank, tp, &s, &msg) != ERR_OK)
        fail_msg("%s", msg.text);
    return tp_slice_of(&s, m, tensor);
}

/* Ranges of consecutive ranks follow each other and end at total. */
static void assert_tiled(const struct engine_model_config *m, struct tp_grain g, uint32_t tp,
                         enum tp_tensor tensor, bool by_rows, uint32_t rows, uint32_t columns)
{
    uint32_t at = 0, total = by_rows ? rows : columns;

    for (uint32_t r = 0; r < tp; r++) {
        struct tp_slice s = slice(m, g, r, tp, tensor);
        struct tp_range split = by_rows ? s.rows : s.columns, whole = by_rows ? s.columns : s.rows;

        assert_int_equal(split.first, at);
        assert_true(split.n > 0);
        assert_int_equal(whole.first, 0);
        assert_int_equal(whole.n, by_rows ? columns : rows);
        at += split.n;
    }
    assert_int_equal(at, total);
}

static void the_shares_of_all_ranks_tile_every_matrix(void **state)
{
    const struct engine_model_config *models[] = {&llama8b, &stories};

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        const struct engine_model_config *m = models[i];
        uint32_t q = m->n_heads * m->head_dim, kv = m->n_kv_heads * m->head_dim;

        for (uint32_t tp = 1; tp <= m->n_kv_heads; tp *= 2) {
            assert_tiled(m, one, tp, TP_Q, true, q, m->hidden);
            assert_tiled(m, one, tp, TP_K, true, kv, m->hidden);
            assert_tiled(m, one, tp, TP_V, true, kv, m->hidden);
            assert_tiled(m, one, tp, TP_O, false, m->hidden, q);
            assert_tiled(m, one, tp, TP_GATE, true, m->ffn, m->hidden);
            assert_tiled(m, one, tp, TP_UP, true, m->ffn, m->hidden);
            assert_tiled(m, one, tp, TP_DOWN, false, m->hidden, m->ffn);
            assert_tiled(m, one, tp, TP_HEAD, true, m->vocab, m->hidden);
        }
    }
}

static void a_ranks_query_heads_are_those_that_read_its_kv_heads(void **state)
{
    (void)state;
    for (uint32_t tp = 1; tp <= 8; tp *= 2) {
        for (uint32_t r = 0; r < tp; r++) {
            struct tp_shard s;

            assert_int_equal(tp_shard_of(&llama8b, one, r, tp, &s, NULL), ERR_OK);
            assert_int_equal(s.heads.first, s.kv_heads.first * 4);
            assert_int_equal(s.heads.n, s.kv_heads.n * 4);
            assert_int_equal(s.kv_heads.first, r * 8 / tp);
        }
    }
}

static void norms_and_the_embedding_are_whole_on_every_rank(void **state)
{
    (void)state;
    for (uint32_t r = 0; r < 4; r++) {
        struct tp_slice norm = slice(&stories, one, r, 4, TP_NORM);
        struct tp_slice embedding = slice(&stories, one, r, 4, TP_EMBEDDING);

        assert_int_equal(norm.rows.first, 0);
        assert_int_equal(norm.rows.n, 64);
        assert_int_equal(embedding.rows.first, 0);
        assert_int_equal(embedding.rows.n, 512);
        assert_int_equal(embedding.columns.n, 64);
    }
}

static void the_last_rank_gets_what_is_left_of_the_vocabulary(void **state)
{
    struct engine_model_config m = llama8b;

    (void)state;
    m.vocab = 307;
    assert_int_equal(slice(&m, one, 0, 4, TP_HEAD).rows.n, 77);
    assert_int_equal(slice(&m, one, 3, 4, TP_HEAD).rows.first, 231);
    assert_int_equal(slice(&m, one, 3, 4, TP_HEAD).rows.n, 76);
    assert_int_equal(slice(&m, (struct tp_grain){1, 16}, 0, 4, TP_HEAD).rows.n, 80);
    assert_int_equal(slice(&m, (struct tp_grain){1, 16}, 3, 4, TP_HEAD).rows.n, 67);
}

static void only_one_rank_adds_the_bias_of_a_sum(void **state)
{
    (void)state;
    for (uint32_t r = 0; r < 2; r++) {
        struct tp_shard s;

        assert_int_equal(tp_shard_of(&stories, one, r, 2, &s, NULL), ERR_OK);
        assert_int_equal(tp_adds_bias(&s, TP_O), r == 0);
        assert_int_equal(tp_adds_bias(&s, TP_DOWN), r == 0);
        assert_true(tp_adds_bias(&s, TP_Q) && tp_adds_bias(&s, TP_K) && tp_adds_bias(&s, TP_UP));
    }
}

static void assert_refused(const struct engine_model_config *m, struct tp_grain g, uint32_t tp,
                           const char *what, const char *possible)
{
    struct err_msg msg = {""};
    struct tp_shard s;

    assert_int_equal(tp_shard_of(m, g, 0, tp, &s, &msg), ERR_INVALID);
    if (strstr(msg.text, what) == NULL || strstr(msg.text, possible) == NULL)
        fail_msg("'%s' does not say '%s' and '%s'", msg.text, what, possible);
}

static void what_does_not_divide_is_named_beside_what_does(void **state)
{
    struct engine_model_config m = llama8b;

    (void)state;
    assert_refused(&stories, one, 3, "4 key/value heads", "possible with this model: 1, 2, 4");
    assert_refused(&stories, one, 8, "4 key/value heads", "1, 2, 4");
    assert_refused(&stories, (struct tp_grain){2, 1}, 4, "43 of the feed-forward width of 172",
                   "possible with this model: 1, 2");
    m.ffn = 101;
    assert_refused(&m, one, 2, "feed-forward width of 101", "possible with this model: 1");
    m = llama8b;
    m.vocab = 307;
    assert_refused(&m, (struct tp_grain){1, 64}, 8, "vocabulary of 307", "1, 2");
    assert_refused(&stories, one, 0, "allowed are 1 .. 64", "");
    assert_refused(&stories, one, 65, "allowed are 1 .. 64", "");
}

static void a_model_that_nothing_divides_runs_on_one_rank(void **state)
{
    struct engine_model_config m = llama8b;
    struct tp_shard s;

    (void)state;
    m.ffn = 101;
    m.vocab = 5;
    assert_int_equal(tp_shard_of(&m, (struct tp_grain){8, 64}, 0, 1, &s, NULL), ERR_OK);
    assert_int_equal(s.ffn.n, 101);
    assert_int_equal(s.vocab.n, 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_shares_of_all_ranks_tile_every_matrix),
        cmocka_unit_test(a_ranks_query_heads_are_those_that_read_its_kv_heads),
        cmocka_unit_test(norms_and_the_embedding_are_whole_on_every_rank),
        cmocka_unit_test(the_last_rank_gets_what_is_left_of_the_vocabulary),
        cmocka_unit_test(only_one_rank_adds_the_bias_of_a_sum),
        cmocka_unit_test(what_does_not_divide_is_named_beside_what_does),
        cmocka_unit_test(a_model_that_nothing_divides_runs_on_one_rank),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
