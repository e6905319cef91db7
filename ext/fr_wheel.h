/* fr_wheel.h: one coarse timer wheel for all connections of a process.
 *
 * The idea: a request arms and disarms several time limits, and almost none of them passes. Arming a later limit, or
 * disarming, only writes one word (`deadline_ms`); the timer stays in the bucket where it is, and when the wheel comes by
 * it is moved on or let go. Only an earlier limit relinks. So a keep-alive connection costs a few list operations per
 * revolution, not per request (asyncio's call_later and cancel per request cost 9 % of a proxied request in a trial).
 *
 * Resolution: 256 ms, late by at most two ticks, never early. Horizon: 512 ticks = 131 s; later limits wait in the
 * farthest bucket and are looked at again.
 * Rules: single-threaded (one event loop); `fire` may arm, disarm or remove any timer, its own included. Thousands of
 * limits that pass at once (clients that came together and never finish their heads) must not hold everybody else up: an
 * advance fires so many at most, the rest stand in `late`, in order, for the caller to fire bit by bit.
 */
#ifndef FR_WHEEL_H
#define FR_WHEEL_H

#include "fr_base.h"

#define FR_WHEEL_SHIFT 8 /* 256 ms: the limits are seconds; nginx and HAProxy are not exact to more than that under load */
#define FR_WHEEL_SLOTS 512

typedef struct fr_timer {
    struct fr_timer *next, *prev; /* NULL when in no bucket */
    uint64_t deadline_ms;         /* 0: disarmed */
    uint64_t due_tick;            /* of the bucket it is in */
    void *owner;
} fr_timer;

typedef struct {
    uint64_t tick; /* the last one walked */
    fr_timer late; /* passed, not fired yet */
    fr_timer slots[FR_WHEEL_SLOTS];
} fr_wheel;

typedef void (*fr_wheel_fire)(fr_timer *timer);

static inline void fr_wheel_init(fr_wheel *wheel, uint64_t now_ms)
{
    wheel->tick = now_ms >> FR_WHEEL_SHIFT;
    wheel->late.next = wheel->late.prev = &wheel->late;
    for (int i = 0; i < FR_WHEEL_SLOTS; i++)
        wheel->slots[i].next = wheel->slots[i].prev = &wheel->slots[i];
}

static inline void fr_timer_remove(fr_timer *timer)
{
    if (timer->next) {
        timer->next->prev = timer->prev;
        timer->prev->next = timer->next;
        timer->next = timer->prev = NULL;
    }
    timer->deadline_ms = 0;
}

static inline void fr_wheel_link(fr_wheel *wheel, fr_timer *timer, uint64_t tick)
{
    fr_timer *head;

    if (tick <= wheel->tick)
        tick = wheel->tick + 1;
    if (tick >= wheel->tick + FR_WHEEL_SLOTS)
        tick = wheel->tick + FR_WHEEL_SLOTS - 1;
    timer->due_tick = tick;
    head = &wheel->slots[tick % FR_WHEEL_SLOTS];
    timer->next = head;
    timer->prev = head->prev;
    head->prev->next = timer;
    head->prev = timer;
}

static inline void fr_wheel_arm(fr_wheel *wheel, fr_timer *timer, uint64_t deadline_ms)
{
    uint64_t tick = (deadline_ms >> FR_WHEEL_SHIFT) + 1;

    if (timer->next) {
        if (FR_LIKELY(tick >= timer->due_tick)) {
            timer->deadline_ms = deadline_ms;
            return;
        }
        fr_timer_remove(timer);
    }
    timer->deadline_ms = deadline_ms;
    fr_wheel_link(wheel, timer, tick);
}

static inline void fr_timer_disarm(fr_timer *timer)
{
    timer->deadline_ms = 0;
}

/* Fire up to `most` of those that are late; -> are there more? One that was armed anew or disarmed meanwhile is not fired. */
static inline int fr_wheel_fire_late(fr_wheel *wheel, uint64_t now_ms, fr_wheel_fire fire, unsigned most)
{
    fr_timer *timer;

    while (most && (timer = wheel->late.next) != &wheel->late) {
        uint64_t deadline_ms = timer->deadline_ms;

        fr_timer_remove(timer);
        if (deadline_ms > now_ms) {
            timer->deadline_ms = deadline_ms;
            fr_wheel_link(wheel, timer, (deadline_ms >> FR_WHEEL_SHIFT) + 1);
        } else if (deadline_ms) {
            most--;
            fire(timer);
        }
    }
    return wheel->late.next != &wheel->late;
}

/* -> are there more that have passed? They wait for fr_wheel_fire_late, or for the next advance. */
static inline int fr_wheel_advance(fr_wheel *wheel, uint64_t now_ms, fr_wheel_fire fire, unsigned most)
{
    uint64_t target = now_ms >> FR_WHEEL_SHIFT;
    fr_timer list, *head, *timer;

    if (target > wheel->tick + FR_WHEEL_SLOTS) /* a long stop of the process: one revolution sees every bucket */
        wheel->tick = target - FR_WHEEL_SLOTS;
    while (wheel->tick < target) {
        head = &wheel->slots[++wheel->tick % FR_WHEEL_SLOTS];
        if (head->next == head)
            continue;
        list = *head; /* taken off whole, so that a timer armed by `fire` cannot be met again in this walk */
        list.next->prev = list.prev->next = &list;
        head->next = head->prev = head;
        while ((timer = list.next) != &list) {
            uint64_t deadline_ms = timer->deadline_ms;

            fr_timer_remove(timer);
            if (deadline_ms == 0)
                continue;
            if (deadline_ms > now_ms) {
                timer->deadline_ms = deadline_ms;
                fr_wheel_link(wheel, timer, (deadline_ms >> FR_WHEEL_SHIFT) + 1);
            } else { /* in the order of their buckets */
                timer->deadline_ms = deadline_ms;
                timer->due_tick = wheel->tick; /* whatever it is armed to from here on is later */
                timer->next = &wheel->late;
                timer->prev = wheel->late.prev;
                wheel->late.prev->next = timer;
                wheel->late.prev = timer;
            }
        }
    }
    return fr_wheel_fire_late(wheel, now_ms, fire, most);
}

#endif
