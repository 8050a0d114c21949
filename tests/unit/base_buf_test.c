/* tests/unit/base_buf_test.c - the growable buffer against a plain array, and without memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "tests/unit/cpu_time.h"

static uint64_t rng_state = 1;

static uint64_t rng(void)
{
    uint64_t x = rng_state += 0x9e3779b97f4a7c15u;

    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static void content_is_what_was_appended_less_what_was_consumed(void **state)
{
    static char model[1 << 20], chunk[600];
    size_t begin = 0, end = 0;
    struct buf b = BUF_INIT;

    (void)state;
    while (end < sizeof(model) - sizeof(chunk)) {
        size_t n = rng() % sizeof(chunk);

        for (size_t i = 0; i < n; i++)
            chunk[i] = model[end + i] = (char)rng();
        if (rng() % 2) {
            assert_int_equal(buf_append(&b, chunk, n), ERR_OK);
        } else {
            assert_int_equal(buf_reserve(&b, n), ERR_OK);
            memcpy(buf_bytes(&b) + b.len, chunk, n);
            buf_added(&b, n);
        }
        end += n;
        n = rng() % (end - begin + 1);
        if (rng() % 3 == 0) {
            buf_consume(&b, n);
            begin += n;
        }
        assert_int_equal(b.len, end - begin);
        assert_memory_equal(buf_bytes(&b), model + begin, b.len);
    }
    buf_clear(&b);
    assert_int_equal(b.len, 0);
    buf_free(&b);
    assert_int_equal(buf_puts(&b, "again"), ERR_OK);
    assert_memory_equal(buf_bytes(&b), "again", 5);
    buf_free(&b);
    assert_int_equal(mem_live(), 0);
}

static void printf_appends_texts_of_every_length_and_no_final_nul(void **state)
{
    static char text[3000];
    struct buf b = BUF_INIT;
    size_t total = 0;

    (void)state;
    for (size_t n = 0; n < sizeof(text) - 1; n += 7) {
        memset(text, 'a' + (int)(n % 26), n);
        text[n] = '\0';
        assert_int_equal(buf_printf(&b, "%s|%d", text, 5), ERR_OK);
        total += n + 2;
        assert_int_equal(b.len, total);
        assert_memory_equal(buf_bytes(&b) + total - 2 - n, text, n);
        assert_memory_equal(buf_bytes(&b) + total - 2, "|5", 2);
    }
    buf_free(&b);
}

static void a_failed_append_leaves_the_content_as_it_was(void **state)
{
    static char big[5000];
    struct buf b = BUF_INIT;

    (void)state;
    mem_fail_at(0);
    assert_int_equal(buf_puts(&b, "x"), ERR_NOMEM);
    assert_int_equal(b.len, 0);
    assert_int_equal(buf_puts(&b, "hello world"), ERR_OK);
    buf_consume(&b, 6);
    mem_fail_at(0);
    assert_int_equal(buf_append(&b, big, sizeof(big)), ERR_NOMEM);
    memset(big, 'z', sizeof(big) - 1);
    mem_fail_at(0);
    assert_int_equal(buf_printf(&b, "%s", big), ERR_NOMEM);
    assert_int_equal(b.len, 5);
    assert_memory_equal(buf_bytes(&b), "world", 5);
    mem_fail_at(-1);
    buf_free(&b);
    assert_int_equal(mem_live(), 0);
}

static void without_memory_to_grow_the_room_at_the_front_is_used(void **state)
{
    static char bytes[200];
    struct buf b = BUF_INIT;

    (void)state;
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (char)i;
    assert_int_equal(buf_append(&b, bytes, sizeof(bytes)), ERR_OK);
    buf_consume(&b, 60);
    assert_true(b.cap - b.len >= 100 && b.cap - b.head - b.len < 100);
    mem_fail_at(0);
    assert_int_equal(buf_append(&b, bytes, 100), ERR_OK);
    mem_fail_at(-1);
    assert_int_equal(b.len, 240);
    assert_memory_equal(buf_bytes(&b), bytes + 60, 140);
    assert_memory_equal(buf_bytes(&b) + 140, bytes, 100);
    buf_free(&b);
}

static void sizes_near_the_end_of_the_address_space_are_refused(void **state)
{
    struct buf b = BUF_INIT;

    (void)state;
    assert_int_equal(buf_puts(&b, "abc"), ERR_OK);
    assert_int_equal(buf_reserve(&b, SIZE_MAX), ERR_NOMEM);
    assert_int_equal(buf_reserve(&b, SIZE_MAX - 3), ERR_NOMEM);
    assert_memory_equal(buf_bytes(&b), "abc", 3);
    buf_free(&b);
}

/* A connection that is nearly full for long: each byte in and out must not move all the others. */
static void eating_and_filling_a_nearly_full_buffer_stays_cheap(void **state)
{
    enum { LEN = (1 << 20) - 1, OPS = 200000 };
    struct buf b = BUF_INIT;
    uint64_t t0;

    (void)state;
    assert_int_equal(buf_reserve(&b, LEN), ERR_OK);
    memset(buf_bytes(&b), 'x', LEN);
    buf_added(&b, LEN);
    t0 = cpu_time_ns();
    for (int i = 0; i < OPS; i++) {
        buf_consume(&b, 3);
        assert_int_equal(buf_append(&b, "abc", 3), ERR_OK);
    }
    /* Moving a MiB each time would take ten seconds and more. */
    assert_true(cpu_time_ns() - t0 < 3 * CLOCK_NS_PER_S);
    assert_int_equal(b.len, LEN);
    assert_true(b.cap <= 4 << 20);
    buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(content_is_what_was_appended_less_what_was_consumed),
        cmocka_unit_test(printf_appends_texts_of_every_length_and_no_final_nul),
        cmocka_unit_test(a_failed_append_leaves_the_content_as_it_was),
        cmocka_unit_test(without_memory_to_grow_the_room_at_the_front_is_used),
        cmocka_unit_test(sizes_near_the_end_of_the_address_space_are_refused),
        cmocka_unit_test(eating_and_filling_a_nearly_full_buffer_stays_cheap),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
