/*
 * Runs a network on an emulated microcontroller. Samples come from a file of the machine that emulates, outputs go to
 * one (semihosting); what the stack took and how many ticks of the core's clock passed is printed.
 */
#include "samples.h"

enum { WRITE_TEXT = 4, OPEN = 1, CLOSE = 2, WRITE = 5, READ = 6, EXIT = 0x20 };
enum { READ_BINARY = 1, WRITE_BINARY = 5, APPLICATION_EXIT = 0x20026, RUN_TIME_ERROR = 0x20023 };

#define PAINT 0xdeadbeefu
#define PERIOD 0x1000000u /* of the core's timer, in ticks */
#define TIMER_CONTROL (*(volatile uint32_t *)0xe000e010u)
#define TIMER_RELOAD (*(volatile uint32_t *)0xe000e014u)
#define TIMER_VALUE (*(volatile uint32_t *)0xe000e018u)
#define COPROCESSORS (*(volatile uint32_t *)0xe000ed88u)

extern uint32_t stack_bottom[], stack_top[], bss_start[], bss_end[];
static volatile uint32_t periods;

static int32_t ask(int32_t operation, const void *argument) {
    register int32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static void end(uint32_t reason) {
    const uint32_t block[2] = {reason, reason != APPLICATION_EXIT};
    ask(EXIT, block);
    for (;;) {
    }
}

static void fail(const char *why) {
    ask(WRITE_TEXT, why);
    end(RUN_TIME_ERROR);
}

static int32_t opened(const char *name, uint32_t length, uint32_t mode) {
    const uintptr_t block[3] = {(uintptr_t)name, mode, length};
    int32_t file = ask(OPEN, block);
    if (file < 0) fail("a file could not be opened\n");
    return file;
}

/* Bytes that were not read or written. */
static int32_t transfer(int32_t operation, int32_t file, void *data, uint32_t bytes) {
    const uintptr_t block[3] = {(uintptr_t)file, (uintptr_t)data, bytes};
    return ask(operation, block);
}

static void print(const char *what, uint64_t number) {
    char digits[24];
    char *first = digits + sizeof digits - 1;
    *first = 0;
    *--first = '\n';
    do {
        *--first = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    ask(WRITE_TEXT, what);
    ask(WRITE_TEXT, first);
}

static uint64_t ticks(void) {
    uint32_t before, value;
    do {
        before = periods;
        value = TIMER_VALUE;
    } while (before != periods);
    return (uint64_t)before * PERIOD + (PERIOD - 1 - value);
}

/* Bytes of stack that one inference took, below its caller. */
static __attribute__((noinline)) uint32_t stack_of_one(void) {
    uint32_t *top;
    __asm__ volatile("mov %0, sp" : "=r"(top));
    for (volatile uint32_t *word = stack_bottom; word < top; word++) *word = PAINT;
    invoke();
    const volatile uint32_t *lowest = stack_bottom;
    while (lowest < top && *lowest == PAINT) lowest++;
    return (uint32_t)((uintptr_t)top - (uintptr_t)lowest);
}

static uint32_t has_sample(int32_t file) {
    for (uint32_t i = 0; i < sizeof inputs / sizeof inputs[0]; i++) {
        int32_t lacking = transfer(READ, file, inputs[i].data, inputs[i].bytes);
        if (lacking == (int32_t)inputs[i].bytes && i == 0) return 0;
        if (lacking) fail("the file of samples ends within one\n");
    }
    return 1;
}

static void run(void) {
    int32_t samples = opened("samples.bin", 11, READ_BINARY);
    int32_t results = opened("results.bin", 11, WRITE_BINARY);
    uint32_t stack = 0;
    uint64_t spent = 0, count = 0;
    for (; has_sample(samples); count++) {
        if (count == 0) stack = stack_of_one();
        const uint64_t start = ticks();
        invoke();
        spent += ticks() - start;
        for (uint32_t i = 0; i < sizeof outputs / sizeof outputs[0]; i++)
            if (transfer(WRITE, results, outputs[i].data, outputs[i].bytes)) fail("results could not be written\n");
    }
    const uint32_t block[1] = {(uint32_t)results};
    ask(CLOSE, block);
    print("samples ", count);
    print("stack ", stack);
    print("ticks ", spent);
}

static void on_period(void) { periods++; }

static void on_fault(void) { fail("the processor faulted\n"); }

void start(void) {
    COPROCESSORS |= 0xfu << 20; /* floating point and vectors */
    __asm__ volatile("dsb\n isb");
    for (volatile uint32_t *word = bss_start; word < bss_end; word++) *word = 0;
    TIMER_RELOAD = PERIOD - 1;
    TIMER_VALUE = 0;
    TIMER_CONTROL = 7; /* counts the core's clock, and interrupts at the end of a period */
    run();
    end(APPLICATION_EXIT);
}

/* Compilers call these for loops and structures. */
void *memcpy(void *to, const void *from, __SIZE_TYPE__ bytes) {
    char *at = to;
    for (const char *byte = from; bytes; bytes--) *at++ = *byte++;
    return to;
}

void *memset(void *to, int value, __SIZE_TYPE__ bytes) {
    for (char *at = to; bytes; bytes--) *at++ = (char)value;
    return to;
}

__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    [0] = stack_top,           [1] = (void *)start,    [2] = (void *)on_fault, [3] = (void *)on_fault,
    [4] = (void *)on_fault,    [5] = (void *)on_fault, [6] = (void *)on_fault, [7] = (void *)on_fault,
    [15] = (void *)on_period,
};
