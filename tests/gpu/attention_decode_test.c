/* tests/gpu/attention_decode_test.c - engine/kernels/attention_decode.h against its definition. */
#include "engine/kernels/attention_decode.h"

#include "tests/gpu/attention_case.h"

enum { PROCESSORS = 3 }; /* few, so that a block takes several items */

struct workspace {
    void *device;
    size_t bytes, counters;
};

static struct workspace workspace_make(const struct attention *a, uint32_t n_rows,
                                       uint32_t max_blocks)
{
    struct workspace w = {.bytes = attention_decode_workspace(a, n_rows, max_blocks)};

    assert_true(w.bytes > 0);
    w.device = test_device(w.bytes);
    TEST_OK(gpu_fill(w.device, 0, w.bytes, test_stream));
    return w;
}

static void decode(struct attention_case *c, const struct workspace *w, uint32_t processors)
{
    TEST_OK(gpu_fill(c->device.out, TEST_POISON, c->out_bytes, test_stream));
    TEST_OK(attention_decode(&c->device, &c->device_batch, w->device, processors, test_stream));
    test_to_host(c->got, c->device.out, c->out_bytes);
}

/* Row i is the newest token of slot i; a slot without keys gives a filler row. */
static void rows_of_slots(struct attention_case *c)
{
    for (uint32_t r = 0; r < c->shape.n_rows; r++) {
        bool filler = c->shape.end[r] == 0;
        c->slot[r] = filler ? -1 : (int32_t)r;
        c->position[r] = (int32_t)(filler ? TEST_POISON : c->shape.end[r] - 1);
    }
}

/* Random lengths up to `longest`, a filler row among them. */
static struct attention_shape shape_of(enum gpu_dtype dtype, uint32_t head_dim, uint32_t group,
                                       uint32_t n_kv_heads, uint32_t block_tokens, uint32_t window,
                                       uint32_t n_slots, uint32_t longest)
{
    struct attention_shape s = {.dtype = dtype,
                                .head_dim = head_dim,
                                .n_q_heads = group * n_kv_heads,
                                .n_kv_heads = n_kv_heads,
                                .block_tokens = block_tokens,
                                .window = window,
                                .n_slots = n_slots,
                                .n_rows = n_slots};

    for (uint32_t i = 0; i < n_slots; i++) {
        s.end[i] = i == 0 ? longest : i == 1 ? 0 : 1 + test_below(longest);
        s.first[i] = window != 0 && s.end[i] > window ? s.end[i] - window : 0;
    }
    return s;
}

static void check(const struct attention_shape *s)
{
    struct attention_case c;
    struct workspace w;

    case_make(&c, s);
    rows_of_slots(&c);
    case_upload(&c);
    w = workspace_make(&c.device, s->n_rows, c.host_batch.max_blocks);
    attention_decode_ref(c.want, &c.host, &c.host_batch);
    decode(&c, &w, PROCESSORS);
    case_check(&c);
    test_device_free(w.device, w.bytes);
    case_free(&c);
}

static void rows_follow_the_definition_in_every_head_size_and_type(void **state)
{
    static const uint32_t dims[] = {64, 96, 128};

    (void)state;
    for (size_t d = 0; d < 3; d++) {
        for (int t = GPU_BF16; t <= GPU_F16; t++) {
            struct attention_shape s = shape_of((enum gpu_dtype)t, dims[d], 4, 2, 16, 0, 4, 300);
            check(&s);
        }
    }
}

static void any_group_of_query_heads_shares_its_keys(void **state)
{
    static const uint32_t groups[] = {1, 2, 5, 8, 9, 16, 20, 33};

    (void)state;
    for (size_t i = 0; i < sizeof(groups) / sizeof(*groups); i++) {
        struct attention_shape s =
            shape_of(i % 2 ? GPU_F16 : GPU_BF16, 64, groups[i], 1 + (uint32_t)i % 3, 32, 0, 3, 280);
        check(&s);
    }
}

static void blocks_of_every_size_are_followed(void **state)
{
    (void)state;
    for (uint32_t tokens = 16; tokens <= 256; tokens *= 2) {
        struct attention_shape s = shape_of(GPU_BF16, 64, 3, 2, tokens, 0, 3, 540);
        check(&s);
    }
}

static void a_window_hides_what_is_before_it(void **state)
{
    static const uint32_t windows[] = {1, 5, 16, 64, 257, 299, 300, 4000};

    (void)state;
    for (size_t i = 0; i < sizeof(windows) / sizeof(*windows); i++) {
        struct attention_shape s = shape_of(GPU_F16, 96, 2, 2, 16, windows[i], 4, 300);
        check(&s);
    }
}

/* The first lengths, and those around every cut. */
static void every_length_around_the_cuts_is_right(void **state)
{
    static const uint32_t ends[] = {1,   2,   15,  16,  17,  63,  64, 65,
                                    255, 256, 257, 511, 512, 513, 769};
    struct attention_shape s = shape_of(GPU_BF16, 64, 1, 1, 16, 0, sizeof(ends) / sizeof(*ends), 1);

    (void)state;
    memcpy(s.end, ends, sizeof(ends));
    check(&s);
}

/* Splits of more keys than usual: there may be no more than 16 with so many heads. */
static void a_long_row_is_cut_into_longer_splits(void **state)
{
    struct attention_shape s = shape_of(GPU_BF16, 64, 1, 16, 256, 0, 1, 4400);

    (void)state;
    check(&s);
}

static void a_row_has_the_same_bits_in_every_batch_and_on_every_device(void **state)
{
    struct attention_shape s = shape_of(GPU_BF16, 64, 4, 2, 16, 0, 6, 600);
    struct attention_case c;
    struct workspace w;
    uint16_t *all;

    (void)state;
    case_make(&c, &s);
    rows_of_slots(&c);
    case_upload(&c);
    w = workspace_make(&c.device, s.n_rows, c.host_batch.max_blocks);
    all = test_alloc(c.out_bytes);
    decode(&c, &w, PROCESSORS);
    memcpy(all, c.got, c.out_bytes);
    decode(&c, &w, 132);
    assert_memory_equal(c.got, all, c.out_bytes);
    for (uint32_t r = 0; r < s.n_rows;
         r++) { /* alone: the rows before it are left out, and those behind it */
        struct gpu_batch one = c.device_batch;
        struct attention a = c.device;
        one.slot += r;
        one.position += r;
        one.n_rows = 1;
        a.q += (size_t)r * a.q_stride;
        a.out += (size_t)r * a.out_stride;
        TEST_OK(gpu_fill(a.out, TEST_POISON, a.out_stride * 2, test_stream));
        TEST_OK(attention_decode(&a, &one, w.device, 1, test_stream));
    }
    test_to_host(c.got, c.device.out, c.out_bytes);
    assert_memory_equal(c.got, all, c.out_bytes);
    test_device_free(w.device, w.bytes);
    mem_free(all);
    case_free(&c);
}

static void rows_of_one_slot_see_each_their_own_past(void **state)
{
    struct attention_shape s = shape_of(GPU_F16, 64, 2, 1, 16, 40, 1, 330);
    struct attention_case c;
    struct workspace w;

    (void)state;
    s.n_rows = 70; /* more than a warp counts at once */
    s.first[0] = 0;
    case_make(&c, &s);
    for (uint32_t r = 0; r < s.n_rows; r++) {
        c.slot[r] = 0;
        c.position[r] = (int32_t)(r == 0 ? 0 : r == 1 ? 329 : test_below(330));
    }
    case_upload(&c);
    w = workspace_make(&c.device, s.n_rows, c.host_batch.max_blocks);
    attention_decode_ref(c.want, &c.host, &c.host_batch);
    decode(&c, &w, PROCESSORS);
    case_check(&c);
    test_device_free(w.device, w.bytes);
    case_free(&c);
}

/* As the steps of an engine do: its counters stay zero whatever the number of rows. */
static void a_workspace_serves_any_number_of_rows(void **state)
{
    struct attention_shape s = shape_of(GPU_F16, 64, 1, 16, 16, 0, 9, 300);
    static const uint32_t steps[] = {1, 9, 4, 9};
    struct attention_case c;
    struct workspace w;

    (void)state;
    for (uint32_t r = 2; r < s.n_slots; r++)
        s.end[r] = 257 + test_below(44); /* two splits */
    case_make(&c, &s);
    rows_of_slots(&c);
    case_upload(&c);
    w = workspace_make(&c.device, s.n_rows, c.host_batch.max_blocks);
    attention_decode_ref(c.want, &c.host, &c.host_batch);
    for (size_t i = 0; i < sizeof(steps) / sizeof(*steps); i++) {
        c.shape.n_rows = c.device_batch.n_rows = steps[i];
        decode(&c, &w, PROCESSORS);
        case_check(&c);
    }
    c.shape.n_rows = s.n_rows;
    test_device_free(w.device, w.bytes);
    case_free(&c);
}

/* One captured launch, run as the sequences grow and rows come and go; the counters must be left as they were. */
static void a_captured_launch_follows_the_positions_of_each_run(void **state)
{
    struct attention_shape s = shape_of(GPU_BF16, 64, 2, 2, 16, 0, 4, 700);
    struct attention_case c;
    struct workspace w;
    gpu_graph graph;

    (void)state;
    for (uint32_t i = 0; i < 4; i++)
        s.end[i] = 700;
    case_make(&c, &s);
    rows_of_slots(&c);
    case_upload(&c);
    w = workspace_make(&c.device, s.n_rows, c.host_batch.max_blocks);
    TEST_OK(gpu_capture_begin(test_stream));
    TEST_OK(attention_decode(&c.device, &c.device_batch, w.device, PROCESSORS, test_stream));
    TEST_OK(gpu_capture_end(test_stream, &graph));
    for (int run = 0; run < 4; run++) {
        for (uint32_t r = 0; r < s.n_rows; r++) {
            c.slot[r] = test_below(4) == 0 ? -1 : (int32_t)test_below(4);
            c.position[r] = (int32_t)test_below(700);
        }
        test_to_device((void *)(uintptr_t)c.device_batch.slot, c.slot, c.row_bytes);
        test_to_device((void *)(uintptr_t)c.device_batch.position, c.position, c.row_bytes);
        TEST_OK(gpu_fill(c.device.out, TEST_POISON, c.out_bytes, test_stream));
        TEST_OK(gpu_graph_launch(graph, test_stream));
        test_to_host(c.got, c.device.out, c.out_bytes);
        attention_decode_ref(c.want, &c.host, &c.host_batch);
        case_check(&c);
    }
    gpu_graph_destroy(graph);
    test_device_free(w.device, w.bytes);
    case_free(&c);
}

static void shapes_outside_the_limits_are_refused(void **state)
{
    struct attention good = {.kv = {.v_offset = 1024,
                                    .block_stride = 4096,
                                    .n_blocks = 8,
                                    .block_tokens = 16,
                                    .n_kv_heads = 2,
                                    .head_dim = 64,
                                    .dtype = GPU_BF16},
                             .q_stride = 512,
                             .out_stride = 256,
                             .n_q_heads = 4,
                             .scale = 0.125f},
                     a;
    struct gpu_batch none = {.max_blocks = 4}, b;

    (void)state;
    TEST_OK(attention_decode(&good, &none, NULL, 132,
                             test_stream)); /* nothing to do, nothing touched */
    assert_true(attention_decode_workspace(&good, 4, 4) > 0);
#define REFUSED(change)                                                                  \
    do {                                                                                 \
        a = good, b = none;                                                              \
        change;                                                                          \
        assert_int_equal(attention_decode(&a, &b, NULL, 132, test_stream), ERR_INVALID); \
        assert_int_equal(attention_decode_workspace(&a, b.n_rows, b.max_blocks), 0);     \
    } while (0)
    REFUSED(a.kv.head_dim = 80);
    REFUSED(a.kv.head_dim = 256);
    REFUSED(a.kv.dtype = (enum gpu_dtype)3);
    REFUSED(a.kv.block_tokens = 8);
    REFUSED(a.kv.block_tokens = 48);
    REFUSED(a.kv.block_tokens = 512);
    REFUSED(a.kv.n_kv_heads = 0);
    REFUSED(a.kv.n_kv_heads = 3);
    REFUSED(a.n_q_heads = 0);
    REFUSED(a.n_q_heads = 8194);
    REFUSED(a.kv.v_offset = 1028);
    REFUSED(a.kv.block_stride = 4104);
    REFUSED(a.q_stride = 516);
    REFUSED(a.out_stride = 260);
    REFUSED(a.scale = 0);
    REFUSED(a.scale = NAN);
    REFUSED(a.window = 0x80000000u);
    REFUSED(b.max_blocks = 0);
    REFUSED(b.max_blocks = ATTENTION_MAX_CONTEXT / 16 + 1);
    REFUSED(b.n_rows = ATTENTION_DECODE_MAX_ROWS + 1);
#undef REFUSED
    assert_int_equal(attention_decode(&good, &none, NULL, 0, test_stream), ERR_INVALID);
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_follow_the_definition_in_every_head_size_and_type),
        cmocka_unit_test(any_group_of_query_heads_shares_its_keys),
        cmocka_unit_test(blocks_of_every_size_are_followed),
        cmocka_unit_test(a_window_hides_what_is_before_it),
        cmocka_unit_test(every_length_around_the_cuts_is_right),
        cmocka_unit_test(a_long_row_is_cut_into_longer_splits),
        cmocka_unit_test(a_row_has_the_same_bits_in_every_batch_and_on_every_device),
        cmocka_unit_test(rows_of_one_slot_see_each_their_own_past),
        cmocka_unit_test(a_workspace_serves_any_number_of_rows),
        cmocka_unit_test(a_captured_launch_follows_the_positions_of_each_run),
        cmocka_unit_test(shapes_outside_the_limits_are_refused),
    };

    return gpu_test_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
