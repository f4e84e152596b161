BEGIN TRANSACTION;
CREATE TABLE cells (
    purpose TEXT NOT NULL,
    benchmark TEXT NOT NULL,
    variant TEXT NOT NULL,
    budget TEXT NOT NULL,
    n_problems INTEGER NOT NULL,
    samples INTEGER NOT NULL,
    PRIMARY KEY (purpose, benchmark, variant, budget)
);
INSERT INTO "cells" VALUES('accuracy','b','dense','8+1wait',1,2);
CREATE TABLE chains (
    benchmark TEXT NOT NULL,
    problem TEXT NOT NULL,
    variant TEXT NOT NULL,
    budget TEXT NOT NULL,
    sample INTEGER NOT NULL,
    position INTEGER NOT NULL,
    scoring TEXT NOT NULL,
    seed INTEGER NOT NULL,
    thinking_budget INTEGER NOT NULL,
    answer_budget INTEGER NOT NULL,
    waits_allowed INTEGER NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('correct', 'wrong', 'no answer')),
    strict_outcome TEXT NOT NULL,
    lenient_outcome TEXT NOT NULL,
    extracted TEXT,
    finish TEXT NOT NULL,
    thinking_finish TEXT NOT NULL,
    waits INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    thinking_tokens INTEGER NOT NULL,
    answer_tokens INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    forced_tokens INTEGER NOT NULL,
    mean_logprob REAL,
    mean_entropy REAL,
    diagnosis TEXT NOT NULL,
    thinking_start INTEGER NOT NULL,
    thinking_stop INTEGER NOT NULL,
    answer_start INTEGER,
    answer_stop INTEGER,
    ids_hash TEXT NOT NULL,
    ids BLOB NOT NULL,
    forced BLOB NOT NULL,
    PRIMARY KEY (benchmark, problem, variant, budget, sample)
) WITHOUT ROWID;
INSERT INTO "chains" VALUES('b','p','dense','8+1wait',0,0,'generate',0,8,4,1,'correct','correct','correct','7','stop','end',1,3,2,2,5,1,-0.5,0.25,'{"looped": 1, "rate": 0.5}',0,2,3,5,'e528f4309e14',X'789C636060606004622620660662162006000064000B',X'789C6360646060000000090002');
INSERT INTO "chains" VALUES('b','p','dense','8+1wait',1,0,'generate',0,8,4,1,'correct','correct','correct','7','stop','end',1,3,2,2,5,1,-0.5,0.25,'{"looped": 0}',0,2,3,5,'e528f4309e14',X'789C636060606004622620660662162006000064000B',X'789C6360646060000000090002');
CREATE TABLE config (key TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO "config" VALUES('model','"m"');
INSERT INTO "config" VALUES('seed','0');
CREATE TABLE diversity (
    benchmark TEXT NOT NULL,
    problem TEXT NOT NULL,
    variant TEXT NOT NULL,
    budget TEXT NOT NULL,
    samples INTEGER NOT NULL,
    measures TEXT NOT NULL,
    PRIMARY KEY (benchmark, problem, variant, budget, samples)
);
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO "meta" VALUES('schema_version','1');
INSERT INTO "meta" VALUES('model fingerprint','f');
INSERT INTO "meta" VALUES('problems b','p');
INSERT INTO "meta" VALUES('recipe','1');
CREATE TABLE problems (
    benchmark TEXT NOT NULL,
    problem TEXT NOT NULL,
    position INTEGER NOT NULL,
    question TEXT NOT NULL,
    answer TEXT NOT NULL,
    choices TEXT NOT NULL,
    metadata TEXT NOT NULL,
    PRIMARY KEY (benchmark, problem)
);
INSERT INTO "problems" VALUES('b','p',0,'what is 3 + 4 ?','7','[]','{}');
CREATE TABLE scores (
    criterion TEXT NOT NULL,
    block INTEGER NOT NULL,
    score REAL NOT NULL,
    low REAL,
    high REAL,
    n_tokens INTEGER NOT NULL,
    calibration TEXT NOT NULL,
    PRIMARY KEY (criterion, block)
);
INSERT INTO "scores" VALUES('shortgpt',0,0.25,0.2,NULL,9,'c');
CREATE TABLE sessions (
    session INTEGER PRIMARY KEY,
    started TEXT NOT NULL,
    seconds REAL NOT NULL,
    decode_seconds REAL NOT NULL,
    tokens INTEGER NOT NULL,
    chains INTEGER NOT NULL
);
INSERT INTO "sessions" VALUES(1,'2026-01-02T03:04:05+00:00',12.5,10.0,10,2);
CREATE TABLE variants (
    variant TEXT PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('dense', 'plan', 'block')),
    method TEXT NOT NULL,
    n_removed INTEGER NOT NULL,
    removed TEXT NOT NULL,
    plan TEXT NOT NULL
);
INSERT INTO "variants" VALUES('dense','dense','',0,'[]','');
COMMIT;
