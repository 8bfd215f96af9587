#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# streaming_sessions: one row for each stream, active while it runs and finished once, with what its client saw. On all three
# databases, and from both sinks.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;
use ChatStream::Token;
use Digest::SHA qw(hmac_sha256_hex sha256_hex);
use Encode qw(encode_utf8);
use Time::HiRes qw(time);

my $RECORD = 'ChatStreamRecord sessions audit';
my $KEY = 'a key that nobody can guess';
my $NEVER = '01a1fc00-0000-7000-8000-000000000000';

my $config = patient()
    . chat('/chat', 'sse?script=two', $RECORD, 'ChatStreamOnDisconnect abort 60s')
    . chat('/quiet', 'sse?tokens=5&usage=0', $RECORD)
    . chat('/500', 'sse?status=500', $RECORD)
    . chat('/cut', 'sse?script=cut', $RECORD)
    . chat('/idle', 'sse?script=stall', $RECORD, 'ChatStreamTimeout 900 headers=900 first-token=900 idle=200ms')
    . chat('/late', 'sse?script=silent', $RECORD, 'ChatStreamTimeout 900 headers=200ms', 'ChatStreamCommitAfter 20s')
    . chat('/total', 'sse?script=stall', $RECORD, 'ChatStreamTimeout 200ms headers=900 first-token=900 idle=900')
    . chat('/cancel', 'sse?script=stall', $RECORD)
    . chat('/leave', 'sse?script=stall', $RECORD, 'ChatStreamOnDisconnect abort 100ms')
    . chat('/openai', 'x', $RECORD, 'ChatStreamUpstream "${UPSTREAM}/openai?tokens=7" dialect=openai', 'ChatStreamModel m')
    . chat('/backup', 'x', $RECORD, 'ChatStreamUpstream "${UPSTREAM}/sse?status=503"',
        'ChatStreamUpstream "${UPSTREAM}/openai?tokens=3" dialect=openai backup', 'ChatStreamModel m')
    . chat('/raw', 'sse?tokens=4', $RECORD, 'ChatStreamFormat raw')
    . chat('/stop', 'sse?script=stall', $RECORD)
    . chat('/whole', 'sse?tokens=6', $RECORD) =~ s/SetHandler chatstream$/SetHandler chatstream-complete/mr
    . chat('/whole-500', 'sse?status=500', $RECORD) =~ s/SetHandler chatstream$/SetHandler chatstream-complete/mr;

my ($t, $up, $name, %ask);

sub scripts
{
    $up->reset;
    $up->script(two    => "token one\nwait seen\ntoken two\ndone\n");
    $up->script(cut    => "token one\ntoken two\nwait seen\ncut\n");
    $up->script(stall  => "token one\nstall\n");
    $up->script(silent => "stall\n");
    return;
}

# Waits for the one finished row of a profile.
sub row_of
{
    my ($profile) = @_;
    my @rows;
    wait_until(sub {
        @rows = eval { $t->database->query('SELECT * FROM streaming_sessions WHERE profile = ?', $profile) };
        return @rows && !grep { $_->{status} eq 'active' } @rows;
    }, 20);
    is scalar @rows, 1, "$name: $profile: one row";
    return $rows[0] || {};
}

# The row has exactly that: a value, undef for NULL, or a pattern.
sub has
{
    my ($row, $what, %want) = @_;
    for my $column (sort keys %want) {
        my $wanted = $want{$column};
        ref $wanted ? like($row->{$column} // 'NULL', $wanted, "$name: $what: $column")
            : is($row->{$column}, $wanted, "$name: $what: $column");
    }
    return;
}

# A time of any of the databases, as text that sorts.
sub sorts { return ($_[0] // '') =~ s/T/ /r =~ s/[+Z].*//r }

sub is_finished
{
    my ($row, $what, $took) = @_;
    isnt $row->{completed_at}, undef, "$name: $what: completed_at is there";
    cmp_ok sorts($row->{created_at}), 'le', sorts($row->{completed_at}), "$name: $what: after created_at";
    is sorts($row->{updated_at}), sorts($row->{completed_at}), "$name: $what: and updated_at with it";
    like $row->{duration_ms} // 'NULL', qr/^\d+$/, "$name: $what: duration_ms";
    cmp_ok $row->{duration_ms} // 0, '<=', $took * 1000 + 5, "$name: $what: and it is no longer than the client waited" if $took;
    if (defined $row->{first_chunk_latency_ms}) {
        cmp_ok $row->{first_chunk_latency_ms}, '<=', $row->{duration_ms}, "$name: $what: the first chunk comes before the end";
    }
    return;
}

sub tokens { return scalar grep { ref $_->{json} && ($_->{json}{type} // '') eq 'token' } @_ }

# ---- one of each kind ------------------------------------------------------------------------------------------------------

my %ANONYMOUS = (user_key => qr/^anon-[0-9a-f]{32}$/, user_email => undef, db_saved => 0, resource => undef);

sub each_kind
{
    scripts();
    my $before = time;
    my $stream = $t->stream('/chat?message=hi', %ask, headers => [ 'X-Connection-Id' => 'tab-1' ]);
    my $id = $stream->header('x-stream-id');
    my @events = $stream->event_of('token');
    my $row = $t->session($id, 'any');
    has($row, 'running', status => 'active', completed_at => undef, error_code => undef, chunk_count => undef,
        duration_ms => undef, bytes_sent => undef, connection_id => 'tab-1', profile => '/chat', %ANONYMOUS);
    $up->signal('seen');
    push @events, $stream->events;
    my $took = time - $before;
    $row = $t->session($id);
    has($row, 'completed', %ANONYMOUS, id => $id, status => 'completed', error_code => undef, chunk_count => 2, bytes_sent => length $stream->body,
        reconnects => 0, connection_id => 'tab-1', profile => '/chat', query_hash => sha256_hex('hi'), node => qr/./,
        upstream => $up->url . '/sse', first_chunk_latency_ms => qr/^\d+$/, prompt_tokens => 1, completion_tokens => 2);
    is tokens(@events), 2, "$name: as its client counted";
    is_finished($row, 'completed', $took);
    $stream->close;

    $stream = $t->request('/quiet?message=hi', %ask);
    $row = row_of('/quiet');
    has($row, 'no usage', status => 'completed', chunk_count => 5, prompt_tokens => undef, completion_tokens => undef,
        bytes_sent => length $stream->body, connection_id => undef);

    my $answer = $t->request('/500?message=hi', %ask);
    cmp_ok $answer->status, '>=', 500, "$name: /500 fails";
    $row = row_of('/500');
    has($row, '/500', %ANONYMOUS, status => 'error', error_code => 'upstream_error', chunk_count => 0, first_chunk_latency_ms => undef,
        prompt_tokens => undef, completion_tokens => undef, bytes_sent => 0);
    is_finished($row, '/500');

    $stream = $t->stream('/cut?message=hi', %ask);
    $stream->event_of('token') for 1 .. 2;
    $up->signal('seen');
    $stream->events;
    $row = row_of('/cut');
    has($row, '/cut', %ANONYMOUS, status => 'error', error_code => 'upstream_error', chunk_count => 2, bytes_sent => length $stream->body,
        first_chunk_latency_ms => qr/^\d+$/, prompt_tokens => undef);
    $stream->close;

    $stream = $t->request('/total?message=hi', %ask);
    $row = row_of('/total');
    has($row, '/total', status => 'timeout', error_code => 'timeout', chunk_count => 1, bytes_sent => length $stream->body);
    cmp_ok $row->{duration_ms}, '>=', 200, "$name: /total: it took what it took";

    # The upstream's slowness is its error; only a stream over its own time is a timeout.
    $stream = $t->request('/idle?message=hi', %ask);
    has(row_of('/idle'), '/idle', status => 'error', error_code => 'upstream_timeout', chunk_count => 1, bytes_sent => length $stream->body);

    $answer = $t->request('/late?message=hi', %ask);
    is $answer->status, 504, "$name: /late";
    has(row_of('/late'), '/late', status => 'error', error_code => 'upstream_timeout', chunk_count => 0, first_chunk_latency_ms => undef);

    scripts();
    $stream = $t->stream('/cancel?message=hi', %ask);
    $id = $stream->header('x-stream-id');
    $stream->event_of('token');
    is $t->request("/cancel?stream_id=$id", method => 'DELETE', %ask)->status, 200, "$name: cancelled";
    $stream->events;
    has(row_of('/cancel'), '/cancel', %ANONYMOUS, status => 'cancelled', error_code => 'cancelled', chunk_count => 1,
        bytes_sent => length $stream->body);
    $stream->close;

    scripts();
    $stream = $t->stream('/leave?message=hi', %ask);
    $stream->event_of('token');
    my $read = length $stream->so_far;
    $stream->abort;
    $row = row_of('/leave');
    has($row, '/leave', %ANONYMOUS, status => 'disconnected', chunk_count => 1, bytes_sent => $read, reconnects => 0,
        prompt_tokens => undef);
    is_finished($row, '/leave');

    $stream = $t->request('/openai?message=' . 'some%20words%20here', %ask);
    has(row_of('/openai'), '/openai', status => 'completed', chunk_count => 7, prompt_tokens => 3, completion_tokens => 7,
        bytes_sent => length $stream->body, upstream => $up->url . '/openai', query_hash => sha256_hex('some words here'));

    $t->request('/backup?message=hi', %ask);
    has(row_of('/backup'), '/backup', status => 'completed', chunk_count => 3, upstream => $up->url . '/openai');

    $stream = $t->request('/raw?message=hi', %ask);
    # The upstream's own events: four tokens and the end.
    has(row_of('/raw'), '/raw', status => 'completed', chunk_count => scalar(@{[ $stream->events ]}), bytes_sent => length $stream->body);

    $answer = $t->request('/whole?message=hi', %ask);
    has(row_of('/whole'), '/whole', %ANONYMOUS, status => 'completed', error_code => undef, chunk_count => 6, reconnects => 0,
        bytes_sent => length $answer->body, completion_tokens => 6);
    $t->request('/whole-500?message=hi', %ask);
    has(row_of('/whole-500'), '/whole-500', status => 'error', error_code => 'upstream_error', chunk_count => 0);
    return;
}

# ---- coming back -------------------------------------------------------------------------------------------------------------

sub resumed
{
    scripts();
    my $stream = $t->stream('/chat?message=hi', %ask);
    my $id = $stream->header('x-stream-id');
    my $event = $stream->event_of('token');
    my $read = length $stream->so_far;
    $stream->abort;
    my $second = $t->stream('/chat', %ask, headers => { 'Last-Event-ID' => $event->{id} });
    $up->signal('seen');
    is tokens($second->events), 1, "$name: resumed: the rest";
    my $row = $t->session($id);
    has($row, 'resumed', status => 'completed', reconnects => 1, chunk_count => 2);
    # Who has gone may be sent something more before that shows.
    my $both = $read + length $second->body;
    cmp_ok $row->{bytes_sent}, '>=', $both, "$name: resumed: the bytes of both";
    cmp_ok $row->{bytes_sent}, '<=', $both + length $second->body, "$name: resumed: and not more";
    $second->close;
    # After the end nobody's reading changes the row any more.
    $t->request('/chat', %ask, headers => { 'Last-Event-ID' => $event->{id} });
    ok $t->records_settled, "$name: settled";
    has($t->session($id), 'read again', status => 'completed', reconnects => 1, bytes_sent => $row->{bytes_sent});
    $t->request('/chat', %ask, headers => { 'Last-Event-ID' => "$NEVER:1" });
    return;
}

sub shut_down
{
    scripts();
    my $stream = $t->stream('/stop?message=hi', %ask);
    $stream->event_of('token');
    is $t->database->value("SELECT status FROM streaming_sessions WHERE profile = '/stop'"), 'active', "$name: still running"
        if $t->session($stream->header('x-stream-id'), 'any');
    my $streams = $t->database->value('SELECT count(*) FROM streaming_sessions');
    ok $t->stop, "$name: httpd stops";
    has(row_of('/stop'), '/stop', status => 'error', error_code => 'shutting_down', chunk_count => 1);
    is $t->database->value('SELECT count(*) FROM streaming_sessions'), $streams, "$name: no row but the streams'";
    $stream->abort;
    return;
}

my @setups = (
    { name => 'SQLite',              database => 'sqlite3', children => 2 },
    { name => 'SQLite, HTTP/2',      database => 'sqlite3', http2 => 1, ask => { http2 => 1 } },
    { name => 'PostgreSQL, worker',  database => 'pgsql', mpm => 'worker', children => 2 },
    { name => 'PostgreSQL, TLS',     database => 'pgsql', tls => 1, ask => { tls => 1 } },
    { name => 'MariaDB',             database => 'mysql', children => 2 },
    { name => 'MariaDB, prefork',    database => 'mysql', mpm => 'prefork', children => 4 },
);

for my $setup (@setups) {
    $name = $setup->{name};
    %ask = %{ $setup->{ask} || {} };
    $t = ChatStream::Test->new(
        config => $config, map { exists $setup->{$_} ? ($_ => $setup->{$_}) : () } qw(database mpm tls http2 children),
    );
    $up = $t->upstream;
    $t->allow_log(qr/ended as (?:error \(upstream_|timeout)|trying the next one/);
    each_kind();
    resumed();
    shut_down();
    $t->check;
}

# ---- as long as it may be ------------------------------------------------------------------------------------------------------

# Whatever gets through the gate has to get into every database: a row that one refuses is a hole in the audit trail.
for my $kind (qw(sqlite3 pgsql mysql)) {
    $name = "$kind, long";
    %ask = ();
    $t = ChatStream::Test->new(database => $kind, start => 0);
    $up = $t->upstream;
    my $token = ChatStream::Token->new('HS256', dir => $t->dir);
    my ($profile, $path) = ('p' x 255, 'u' x 200);
    $t->httpd->{config} = chat('/long', 'x', $RECORD, 'ChatStreamJWTKey HS256 "' . $token->file . '"', "ChatStreamProfile $profile",
        "ChatStreamUpstream \"\${UPSTREAM}/$path\"");
    $t->allow_log(qr/ended as error \(upstream_error/);
    $t->start;
    my $sub = "\x{20ac}" x 85;    # 255 bytes
    my $rows = 0;
    for my $length (20, 320, 321, 400, 1000, 1024, 1025, 4000) {
        my $email = 'm' x ($length - 12) . '@example.com';
        my $connection = 'c' x 128;
        my $answer = $t->request('/long', json => { message => 'hi', conversation_id => 'v' x 128 }, headers => [
            Authorization => 'Bearer ' . $token->sign({ sub => $sub, email => $email, exp => time + 600 }), 'X-Connection-Id' => $connection,
        ]);
        is $answer->status, 502, "$name: an email of $length: the upstream does not know that path";
        $rows++;
        ok $t->records_settled(10), "$name: an email of $length: settled";
        my ($row) = eval { $t->database->query('SELECT * FROM streaming_sessions ORDER BY id DESC') };
        is $t->database->value('SELECT count(*) FROM streaming_sessions'), $rows, "$name: an email of $length: has its row";
        has($row || {}, "an email of $length", user_key => $sub, profile => $profile, connection_id => $connection, status => 'error',
            upstream => qr{/$path$}, $length <= 320 ? (user_email => $email) : ());
    }
    $t->check;
}

# ---- who is slower than the upstream, who reads twice --------------------------------------------------------------------------

$name = 'readers';
$t = ChatStream::Test->new(database => 'sqlite3', children => 2, config => patient() . chat('/one', 'sse?script=two', $RECORD)
    . chat('/big', 'sse?tokens=3000&size=1000', $RECORD, 'ChatStreamReplay 8m'));
$up = $t->upstream;
scripts();
{
    my ($here, $there) = $t->children;
    my @readers = $t->stream_on($here, '/one?message=hi');
    my $event = $readers[0]->event_of('token');
    push @readers, $t->stream_on($_, '/one', headers => { 'Last-Event-ID' => $event->{id} }) for $here, $there, $there;
    $up->signal('seen');
    my $bytes = 0;
    for my $reader (@readers) {
        $bytes += length $reader->body;
        $reader->close;
    }
    has($t->session($readers[0]->header('x-stream-id')), 'four readers in two children', bytes_sent => $bytes, reconnects => 3,
        chunk_count => 2, status => 'completed');

    # The row does not wait for this one to the end, but what it has taken by then was sent.
    my $slow = $t->stream('/big?message=hi', receive_buffer => 4096, timeout => 60);
    $slow->event_of('token') for 1 .. 500;
    my $read = length $slow->so_far;
    my $row = $t->session($slow->header('x-stream-id'));
    has($row, 'a slow reader', status => 'completed', chunk_count => 3000);
    cmp_ok $row->{bytes_sent}, '>=', $read, 'readers: a slow reader: no less than it has read already';
    cmp_ok $row->{bytes_sent}, '<=', length $slow->body, 'readers: a slow reader: no more than there is';
    $slow->close;
}
$t->check;

# ---- who -----------------------------------------------------------------------------------------------------------------------

$name = 'who';
%ask = ();
$t = ChatStream::Test->new(database => 'sqlite3', start => 0, modules => [qw(remoteip)]);
my $token = ChatStream::Token->new('HS256', dir => $t->dir);
{
    open my $file, '>', $t->dir . '/hash-key' or die $!;
    print $file $KEY;
    close $file;
}
my @hashed = ('ChatStreamHashKey "' . $t->dir . '/hash-key"', $RECORD);
$t->httpd->{config} = "RemoteIPHeader X-Client\n"
    . chat('/token', 'sse?tokens=2', 'ChatStreamJWTKey HS256 "' . $token->file . '"', @hashed)
    . chat('/header', 'sse?tokens=2', 'ChatStreamUserHeader X-User-Id', $RECORD)
    . chat('/plain', 'sse?tokens=2', $RECORD)
    . chat('/keyed', 'sse?tokens=2', @hashed, 'ChatStreamProfile keyed');
$t->start;
$up = $t->upstream;

sub session_of { return $t->session($t->request(@_)->header('x-stream-id')) }

my $anna = [ Authorization => 'Bearer ' . $token->sign({ sub => 'anna', email => 'anna@example.com', exp => time + 600 }) ];
my $nomail = [ Authorization => 'Bearer ' . $token->sign({ sub => 'bert', exp => time + 600 }) ];
my $text = "Gr\x{fc}\x{df}e \x{1f600} 'quoted' \"twice\" \\";
has(session_of('/token', headers => $anna, json => { message => $text, user_email => 'other@example.com' }), 'token',
    user_key => 'anna', user_email => 'anna@example.com', query_hash => hmac_sha256_hex(encode_utf8($text), $KEY));
has(session_of('/token?message=hi&user_email=said@example.com', headers => $nomail), 'token without email',
    user_key => 'bert', user_email => undef);
has(session_of('/token?message=hi&user_email=said@example.com'), 'no token', user_key => qr/^anon-[0-9a-f]{32}$/, user_email => undef);
has(session_of('/header?message=hi&user_email=said@example.com', headers => [ 'X-User-Id' => 'carl' ]), 'named by the proxy',
    user_key => 'carl', user_email => undef);

# The address: never itself, the same for the same one, another with a key.
my %key;
for my $address ('203.0.113.7', '203.0.113.8', '2001:db8:1:2::3') {
    for my $path (qw(/plain /keyed)) {
        my $row = session_of("$path?message=hi", headers => [ 'X-Client' => $address ]);
        like $row->{user_key}, qr/^anon-[0-9a-f]{32}$/, "who: $path $address";
        unlike join(' ', map { $_ // '' } values %$row), qr/\Q$address\E/, "who: $path $address: not the address, anywhere";
        $key{$path}{$address} = $row->{user_key};
        is session_of("$path?message=hi", headers => [ 'X-Client' => $address ])->{user_key}, $row->{user_key}, "who: $path $address: again";
    }
    isnt $key{'/plain'}{$address}, $key{'/keyed'}{$address}, "who: $address: the key matters";
}
my %different = map { $_ => 1 } map { values %$_ } values %key;
is scalar keys %different, 6, 'who: each its own';
is $key{'/plain'}{'203.0.113.7'}, 'anon-' . substr(sha256_hex('address 203.0.113.7'), 0, 32), 'who: the hash without a key';
is $key{'/keyed'}{'203.0.113.7'}, 'anon-' . substr(hmac_sha256_hex('address 203.0.113.7', $KEY), 0, 32), 'who: and with one';

has(session_of('/keyed?message=hi'), 'HMAC', query_hash => hmac_sha256_hex('hi', $KEY), profile => 'keyed');
has(session_of('/plain', json => { message => $text }), 'SHA-256', query_hash => sha256_hex(encode_utf8($text)));
has(session_of('/plain?message=hi', headers => [ 'X-Connection-Id' => 'a b' ]), 'a bad connection id', connection_id => undef);

# A question that is refused is no stream.
my $before = $t->database->value('SELECT count(*) FROM streaming_sessions');
is $t->request('/plain')->status, 400, 'who: no message';
is $t->request('/plain?message=hi', headers => { 'Last-Event-ID' => "$NEVER:1" })->status, 410, 'who: an unknown stream';
is $t->request('/plain?message=hi', method => 'HEAD')->status, 200, 'who: only asked';
ok $t->records_settled, 'who: settled';
is $t->database->value('SELECT count(*) FROM streaming_sessions'), $before, 'who: no row for what was no stream';
chomp(my $node = `hostname`);
is_deeply [ map { $_->{node} } $t->database->query('SELECT DISTINCT node FROM streaming_sessions') ], [$node], 'who: the node';
$t->done;
