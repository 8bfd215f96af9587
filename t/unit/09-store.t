#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# The store on all three databases, through store_probe: what is written comes back, what is refused and what has to wait is
# told apart, and nothing is there twice. What they have in common is tested on SQLite in test_store.c.
use strict;
use warnings;
use utf8;
use File::Temp ();
use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Database;
use IPC::Open2 qw(open2);
use Test::More;

my $root = "$FindBin::Bin/../..";
my $program = ($ENV{CHATSTREAM_BUILDDIR} || $root) . '/t/unit/store_probe';
-x $program or die "$program is not there: build it\n";

my $dir = File::Temp->newdir('chatstream-store-XXXXXX', TMPDIR => 1);
local $SIG{ALRM} = sub { die "the test hangs\n" };
local $SIG{PIPE} = 'IGNORE';
alarm 300;
binmode Test::More->builder->$_, ':utf8' for qw(output failure_output);

# ---- the program -------------------------------------------------------------------------------------------------------

{
    package Probe;

    sub new
    {
        my ($class, $db) = @_;
        my $pid = main::open2(my $out, my $in, $program, $db->driver, $db->params);
        binmode $_, ':utf8' for $out, $in;
        $in->autoflush;
        return bless { pid => $pid, in => $in, out => $out }, $class;
    }

    # The answer's first word; the error line is in {error}.
    sub say
    {
        my ($self, @words) = @_;
        print { $self->{in} } join("\t", @words), "\n";
        my $line = readline $self->{out};
        defined $line or return 'gone';
        chomp $line;
        (my $answer, $self->{error}) = split /\t/, $line, 2;
        return $answer;
    }

    # A fact in a transaction of its own.
    sub alone
    {
        my ($self, @fact) = @_;
        my $answer = $self->say('begin');
        $answer = $self->say(@fact) if $answer eq 'ok';
        return $self->say('commit') if $answer eq 'ok';
        my $error = $self->{error};
        $self->say('rollback');
        $self->{error} = $error;
        return $answer;
    }

    sub end { my ($self) = @_; close $self->{in}; close $self->{out}; waitpid $self->{pid}, 0; return $? }
}

sub streams
{
    my ($db, @words) = @_;
    my $said = qx('$program' @{[ $db->driver ]} '@{[ $db->params ]}' streams @words);
    chomp $said;
    return split /\t/, $said;
}

# ---- the schema in the binary ------------------------------------------------------------------------------------------

sub plain
{
    my ($text) = @_;
    $text =~ s/^\s*--.*$//mg;
    $text =~ s/\s+/ /g;
    $text =~ s/^ | $| (?=;)|(?<=;) //g;
    return $text;
}

for my $kind (qw(sqlite3 pgsql mysql)) {
    open my $file, '<', "$root/conf/sql/$kind.sql" or die "$root/conf/sql/$kind.sql: $!\n";
    local $/;
    is plain(scalar qx('$program' schema $kind)), plain(<$file>), "$kind: conf/sql/$kind.sql is what migrate runs";
}

# ---- what differs ------------------------------------------------------------------------------------------------------

# How the times come back, and the checks that a site might have added.
my %DIALECT = (
    sqlite3 => {
        time => 'created_at', ts => 'ts', saved => 'db_saved',
        forbid => [
            "CREATE TRIGGER forbid BEFORE INSERT ON streaming_sessions WHEN NEW.user_key = 'nobody'"
                . " BEGIN SELECT RAISE(ABORT, 'constraint of the site'); END",
        ],
        allow => ['DROP TRIGGER forbid'],
    },
    pgsql => {
        time => q{to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.MS')},
        ts => q{to_char(ts AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')}, saved => 'db_saved::int',
        forbid => [q{ALTER TABLE streaming_sessions ADD CONSTRAINT forbid CHECK (user_key <> 'nobody')}],
        allow => ['ALTER TABLE streaming_sessions DROP CONSTRAINT forbid'],
    },
    mysql => {
        time => q{LEFT(DATE_FORMAT(created_at, '%Y-%m-%d %H:%i:%s.%f'), 23)},
        ts => q{DATE_FORMAT(ts, '%Y-%m-%d %H:%i:%s.%f')}, saved => 'db_saved',
        forbid => [q{ALTER TABLE streaming_sessions ADD CONSTRAINT forbid CHECK (user_key <> 'nobody')}],
        allow => ['ALTER TABLE streaming_sessions DROP CONSTRAINT forbid'],
    },
);

sub count { my ($db, $table) = @_; return 0 + $db->value("SELECT count(*) FROM $table") }

sub test_migrate
{
    my ($db) = @_;
    my @probes = map { Probe->new($db) } 1 .. 4;
    is $probes[0]->say('version'), 0, 'an empty database has no version';
    print { $_->{in} } "migrate\n" for @probes;
    is join(' ', map { (split /\t/, readline $_->{out})[0] } @probes), 'ok ok ok ok', 'four migrate at once';
    is $probes[0]->say('version'), 1, 'the version';
    $_->end for @probes;
    return;
}

sub test_values
{
    my ($db, $dialect) = @_;
    my $probe = Probe->new($db);
    my $detail = '{"b": 1,  "a":[1,2], "b":2, "text":"100% \u00e4 ä 😀"}';
    my $message = q{it's "quoted" \\ 50% 'ä' 😀};
    is $probe->alone('OPEN', 's1', 1, "detail=$detail", "message=$message", 'user_email='), 'ok', 'open'
        or diag $probe->{error};
    is $db->value("SELECT $dialect->{time} FROM streaming_sessions"), '2026-02-17 10:00:00.123', 'created_at';
    is $db->value("SELECT $dialect->{ts} FROM audit_log"), '2026-02-17 10:00:00.123456', 'ts has microseconds';
    is $db->value('SELECT detail FROM audit_log'), $detail, 'detail as it was';
    is $db->value('SELECT content FROM chat_messages'), $message, 'the message';
    is $db->value('SELECT count(*) FROM streaming_sessions WHERE user_email IS NULL AND completed_at IS NULL'), 1,
        'what is absent is NULL';
    my @close = ('CLOSE', 's1', 2, 'prompt_tokens=7', 'error_code=', 'partial=1', 'answer=@5000000', 'status=cancelled');
    is $probe->alone(@close), 'ok', 'close' or diag $probe->{error};
    is_deeply [ $db->query(
        "SELECT status, error_code, first_chunk_latency_ms AS f, duration_ms AS d, chunk_count AS c, prompt_tokens AS p,"
            . " completion_tokens AS n, $dialect->{saved} AS saved FROM streaming_sessions",
    ) ], [ { status => 'cancelled', error_code => undef, f => 120, d => 1500, c => 42, p => 7, n => undef, saved => 1 } ],
        'the end';
    is $db->value("SELECT length(content) FROM chat_messages WHERE role = 'assistant' AND partial = "
            . ($db->driver eq 'pgsql' ? 'true' : 1)), 5_000_000, 'a long answer, marked as partial';
    is $probe->alone(@close), 'ok', 'again' or diag $probe->{error};
    is_deeply [ map { count($db, $_) } qw(streaming_sessions chat_messages audit_log audit_chains) ], [ 1, 2, 2, 1 ],
        'everything once';
    is $db->value('SELECT head_seq FROM audit_chains WHERE base_seq = 0'), 2, 'the head';

    is $probe->say('begin'), 'ok', 'begin';
    is $probe->say('OPEN', 's2', 3), 'ok', 'a fact';
    is $probe->say('rollback'), 'ok', 'rolled back';
    is count($db, 'streaming_sessions'), 1, 'is not there';
    is $probe->say('pool'), 'ok', "a connection of mod_dbd's";
    for (1 .. 2) {
        is $probe->say('wrap'), 'ok', 'a store on it' or diag $probe->{error};
        is $probe->alone('CLOSE', 's2', 3), 'ok', 'serves one store after another' or diag $probe->{error};
    }
    is $db->value("SELECT $dialect->{saved} FROM streaming_sessions WHERE id = 's2'"), 0,
        'without its message a conversation is not saved';
    is $probe->alone('OPEN', 's2', 4), 'ok', 'the opening comes late' or diag $probe->{error};
    is $db->value("SELECT $dialect->{saved} FROM streaming_sessions WHERE id = 's2'"), 1, 'then it is';
    $probe->end;
    return;
}

sub test_refused
{
    my ($db, $dialect) = @_;
    my $probe = Probe->new($db);
    $db->do($_) for @{ $dialect->{forbid} };
    is $probe->alone('OPEN', 'r1', 11, 'user_key=nobody'), 'refused', 'a constraint of the site';
    unlike $probe->{error}, qr/nobody|\(/, "without the value: $probe->{error}";
    is $probe->say('begin'), 'ok', 'a batch';
    is $probe->say('OPEN', 'r2', 12), 'ok', 'with a good one';
    is $probe->say('OPEN', 'r1', 11, 'user_key=nobody'), 'refused', 'and a bad one';
    is $probe->say('OPEN', 'r4', 15), 'refused', 'is spoiled';
    is $probe->say('commit'), 'refused', 'and not committed';
    is $db->value("SELECT count(*) FROM streaming_sessions WHERE id LIKE 'r%'"), 0, 'no part of it';
    is $probe->alone('OPEN', 'r2', 12), 'ok', 'alone the good one is taken' or diag $probe->{error};
    $db->do($_) for @{ $dialect->{allow} };
    is $probe->alone('OPEN', 'r1', 11, 'user_key=nobody'), 'ok', 'taken without it' or diag $probe->{error};
    if ($db->driver eq 'mysql') {
        is $probe->alone('OPEN', 'r3', 13, 'user_key=@300'), 'refused', "too long for its column: $probe->{error}";
        is $probe->alone('CLOSE', 'r2', 14, 'answer=@20000000'), 'refused', "too long for the server: $probe->{error}";
        is $probe->alone('CLOSE', 'r2', 14, 'answer=@14000000'), 'ok', 'nearly' or diag $probe->{error};
    }
    if ($db->driver eq 'pgsql') {
        $db->do('ALTER TABLE streaming_sessions ALTER user_key TYPE varchar(50)');
        is $probe->alone('OPEN', 'r3', 13, 'user_key=@300'), 'refused', "too long for its column: $probe->{error}";
        $db->do('ALTER TABLE streaming_sessions ALTER user_key TYPE text');
        is $probe->alone('OPEN', 'r3', 13, 'detail=nonsense'), 'refused', 'not JSON';
        unlike $probe->{error}, qr/nonsense/, "without the value: $probe->{error}";
    }
    $probe->end;
    return;
}

sub test_lost
{
    my ($db) = @_;
    my $probe = Probe->new($db);
    $db->do('ALTER TABLE audit_log RENAME TO mislaid');
    is $probe->alone('OPEN', 'l1', 21), 'lost', 'a table is missing';
    is $probe->say('open'), 'ok', 'connect again';
    is $probe->alone('OPEN', 'l1', 21), 'lost', "still: $probe->{error}";
    $db->do('ALTER TABLE mislaid RENAME TO audit_log');
    is $probe->say('open'), 'ok', 'connect again';
    is $probe->alone('OPEN', 'l1', 21), 'ok', 'it waited' or diag $probe->{error};
    $probe->end;
    test_read_only($db) if $db->driver ne 'sqlite3';
    test_killed($db) if $db->driver ne 'sqlite3';
    test_pooled($db) if $db->driver ne 'sqlite3';
    return;
}

sub test_read_only
{
    my ($db) = @_;
    my $admin = $db->dbh(admin => 1);
    my ($on, $off) =
        $db->driver eq 'pgsql'
        ? map { "ALTER ROLE chatstream SET default_transaction_read_only = $_" } qw(on off)
        : map { "SET GLOBAL read_only = $_" } 1, 0;
    $admin->do($on);
    my $probe = Probe->new($db);
    is $probe->alone('OPEN', 'o1', 31), 'lost', "a server that is read-only: $probe->{error}";
    $admin->do($off);
    $probe->say('open');
    is $probe->alone('OPEN', 'o1', 31), 'ok', 'and then not' or diag $probe->{error};
    $admin->disconnect;
    $probe->end;
    return;
}

sub test_killed
{
    my ($db) = @_;
    my $probe = Probe->new($db);
    is $probe->say('begin'), 'ok', 'begin';
    is $probe->say('OPEN', 'k1', 41), 'ok', 'a fact';
    $db->kill;
    is $probe->say('CLOSE', 'k1', 42), 'lost', "the server is killed: $probe->{error}";
    is $probe->say('commit'), 'lost', 'no commit';
    is $probe->say('open'), 'lost', "nor a connection: $probe->{error}";
    $db->start;
    is $probe->say('open'), 'ok', 'it is back' or diag $probe->{error};
    is $probe->say('begin'), 'ok', 'begin';
    is $probe->say('OPEN', 'k1', 41), 'ok', 'again';
    is $probe->say('CLOSE', 'k1', 42), 'ok', 'and further';
    is $probe->say('commit'), 'ok', 'commit' or diag $probe->{error};
    is $db->value("SELECT status FROM streaming_sessions WHERE id = 'k1'"), 'completed', 'once and finished';

    # Killed while nobody looked: what was committed is there, and the next batch says so at once.
    $db->kill;
    $db->start;
    isnt $probe->alone('OPEN', 'k2', 43), 'refused', 'a connection that died is never the fault of a fact';
    $probe->say('open');
    is $probe->alone('OPEN', 'k2', 43), 'ok', 'and goes on' or diag $probe->{error};
    $probe->end;
    return;
}

# mod_dbd hands out a connection whose server has gone as soon as the driver has connected it again, without what was prepared
# and set on it.
sub test_pooled
{
    my ($db) = @_;
    my $probe = Probe->new($db);
    is $probe->say($_), 'ok', $_ for qw(pool wrap);
    is $probe->alone('OPEN', 'p1', 51), 'ok', 'a fact through a pooled connection' or diag $probe->{error};
    is $probe->say('begin'), 'ok', 'begin';
    is $probe->say('OPEN', 'p2', 52), 'ok', 'half a batch';
    $db->kill;
    $db->start;
    is $probe->say('CLOSE', 'p2', 53), 'lost', "killed and started: $probe->{error}";
    isnt $probe->say('commit'), 'ok', 'no half batch';
    is $probe->say('check'), 'ok', 'connected again';
    is $probe->say('wrap'), 'ok', 'a new store on it' or diag $probe->{error};
    is $db->value("SELECT count(*) FROM streaming_sessions WHERE id = 'p2'"), 0, 'nothing of the half';
    is $probe->alone('OPEN', 'p2', 52), 'ok', 'works' or diag $probe->{error};
    is $probe->alone('CLOSE', 'p2', 53), 'ok', 'on' or diag $probe->{error};

    # While it lies in the pool.
    $db->kill;
    $db->start;
    is $probe->say('check'), 'ok', 'nobody noticed';
    my $answer = '';
    for my $try (1 .. 3) {
        last if ($answer = $probe->alone('OPEN', 'p3', 54)) eq 'ok';
        diag "try $try: $probe->{error}" if $answer eq 'refused';
        $probe->say('check');
        $probe->say('wrap');
    }
    is $answer, 'ok', 'it recovers' or diag $probe->{error};
    $probe->end;
    return;
}

# ---- the queries people have -------------------------------------------------------------------------------------------

# Ten streams: six completed, one each of error, timeout, cancelled and disconnected; the probe numbers the figures.
my @MONITORING = (
    [ "SELECT COUNT(*) FILTER (WHERE status = 'completed') * 100.0 / COUNT(*) FROM streaming_sessions"
          . " WHERE created_at > NOW() - INTERVAL '1 hour'", 60, 'completion rate' ],
    [ "SELECT COUNT(*) FILTER (WHERE status = 'error') * 100.0 / COUNT(*) FROM streaming_sessions"
          . " WHERE created_at > NOW() - INTERVAL '1 hour'", 10, 'error rate' ],
    [ 'SELECT percentile_cont(0.95) WITHIN GROUP (ORDER BY first_chunk_latency_ms) FROM streaming_sessions'
          . " WHERE created_at > NOW() - INTERVAL '1 hour'", 95.05, 'latency of the first chunk' ],
    [ 'SELECT percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_ms) FROM streaming_sessions'
          . " WHERE created_at > NOW() - INTERVAL '1 hour'", 950.5, 'duration' ],
    [ 'SELECT COUNT(*) FILTER (WHERE db_saved) * 100.0 / COUNT(*) FROM streaming_sessions'
          . " WHERE created_at > NOW() - INTERVAL '1 hour'", 100, 'save rate' ],
    [ 'SELECT COUNT(*) FROM streaming_sessions WHERE db_saved = true', 100, 'saved' ],
    [ 'SELECT AVG(chunk_count) FROM streaming_sessions', 42, 'chunks' ],
    [ "SELECT COUNT(*) FROM streaming_sessions WHERE status = 'active'", 0, 'active' ],
    [ "SELECT COUNT(*) FILTER (WHERE status = 'timeout') * 100.0 / COUNT(*) FROM streaming_sessions"
          . " WHERE created_at > NOW() - INTERVAL '1 hour'", 10, 'time-out rate' ],
);

sub test_many
{
    my ($db) = @_;
    $db->do("DELETE FROM $_") for qw(streaming_sessions chat_messages audit_log audit_chains);
    for (1 .. 2) {
        my ($answer, $error) = streams($db, 100, 30);
        is $answer, 'ok', 'a hundred streams' or diag $error;
        is_deeply [ map { count($db, $_) } qw(streaming_sessions chat_messages audit_log audit_chains) ],
            [ 100, 200, 200, 1 ], $_ == 1 ? 'their rows' : 'and no more of them the second time';
    }
    return if $db->driver ne 'pgsql';
    for my $query (@MONITORING) {
        my ($sql, $want, $what) = @$query;
        cmp_ok abs($db->value($sql) - $want), '<', 1e-9, "monitoring: $what";
    }
    return;
}

sub test_outline
{
    my ($db) = @_;
    my $insert = sub {
        my ($id, $active) = @_;
        my $now = "'2026-02-17 10:00:00'";
        return eval {
            $db->do("INSERT INTO outline_sessions (id, workflow_id, status, is_active, created_at, updated_at)"
                    . " VALUES ('$id', 'w1', 'running', $active, $now, $now)");
        };
    };
    my ($yes, $no) = $db->driver eq 'pgsql' ? qw(true false) : (1, 0);
    ok $insert->('o1', $yes), 'an outline';
    ok !$insert->('o2', $yes), 'no second one that is active';
    ok $insert->('o3', $no) && $insert->('o4', $no), 'any number of others';
    return;
}

for my $kind (qw(sqlite3 pgsql mysql)) {
    subtest $kind => sub {
        my $db = ChatStream::Database->new(kind => $kind, dir => "$dir")->start;
        test_migrate($db);
        test_values($db, $DIALECT{$kind});
        test_refused($db, $DIALECT{$kind});
        test_lost($db);
        test_many($db);
        test_outline($db);
        $db->stop;
    };
}

# ---- a full disk -------------------------------------------------------------------------------------------------------

subtest 'a full disk' => sub {
    my $small = "$dir/small";
    mkdir $small;
    plan skip_all => 'no right to mount' if system("mount -t tmpfs -o size=1m none '$small' 2>/dev/null") != 0;
    my $db = bless { file => "$small/data.sqlite" }, 'Small';
    { no warnings 'once'; *Small::driver = sub { 'sqlite3' }; *Small::params = sub { $_[0]{file} } }
    my $probe = Probe->new($db);
    is $probe->say('migrate'), 'ok', 'migrate' or diag $probe->{error};
    is $probe->alone('OPEN', 'd1', 1), 'ok', 'a small row fits' or diag $probe->{error};
    is $probe->alone('CLOSE', 'd1', 2, 'answer=@3000000'), 'lost', "a large one does not: $probe->{error}";
    system "mount -o remount,size=16m '$small'";
    is $probe->alone('CLOSE', 'd1', 2, 'answer=@3000000'), 'ok', 'it waited for room' or diag $probe->{error};
    $probe->end;
    system "umount '$small'";
};

done_testing;
