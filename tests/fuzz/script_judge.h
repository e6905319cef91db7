/* script_judge.h: what the driver of scripts (script_drive.pyx) and their judge (script_judge.c) share. */
#ifndef FR_SCRIPT_JUDGE_H
#define FR_SCRIPT_JUDGE_H

#include "fr_out.h"

#define PEERS_MAX 24

typedef struct {
    fr_out outbox;     /* what it says; the first `given` bytes have reached the proxy, `heard` of them before it stopped listening */
    size_t given, heard, piece;
    fr_out written;    /* what the proxy wrote to it, the last `unsent` bytes of it not taken yet */
    size_t unsent, high, asked_at;
    int slow, stopped, reading, closing, aborted, lost, ended, eof;
} script_peer;

/* NULL: all holds; else what does not. */
const char *script_judge(script_peer *clients, int client_count, script_peer *servers, int server_count, int went_away);
/* The same of one client and one server, for tests: what the client said and saw, what the server got and said. */
const char *script_judge_texts(const char *said, const char *saw, const char *got, const char *answered);
/* A fresh mark, of 13 bytes. */
void script_mark(uint32_t number, uint8_t *to);
/* Of the last judgement: to how many requests a server spoke, and where it began to. */
int script_said_count(int server);
size_t script_said_at(int server, int number);

#endif
