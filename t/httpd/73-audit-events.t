#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# audit_log: which row each thing leaves that happens, and what is not in it: an address where nobody needs it, a whole one of
# somebody without a name, an email of somebody without a token, a word that was said.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;
use ChatStream::Token;
use Digest::SHA qw(sha256_hex);
use JSON::PP ();
use Time::HiRes qw(time);

my $RECORD = 'ChatStreamRecord sessions audit';
my $V4 = '203.0.113.77';
my $V6 = '2001:db8:1:2:3::4';

my ($t, $up, $name, $token);

sub config
{
    my $key = 'ChatStreamJWTKey HS256 "' . $token->file . '"';
    return "RemoteIPHeader X-Client\n" . patient()
        . chat('/chat', 'sse?script=two', $RECORD, $key, 'ChatStreamOnDisconnect abort 60s')
        . chat('/done', 'sse?tokens=2', $RECORD, $key)
        . chat('/500', 'sse?status=500', $RECORD)
        . chat('/required', 'sse?tokens=2', $RECORD, $key, 'ChatStreamAuth required')
        . chat('/valid-user', 'sse?tokens=2', $RECORD, $key, 'Require valid-user')
        . chat('/rate', 'sse?tokens=2', $RECORD, $key, 'ChatStreamRateLimit 1/600')
        . chat('/disabled', 'sse?tokens=2', $RECORD, 'ChatStreamEnabled Off')
        . chat('/flagged', 'sse?tokens=2', $RECORD, 'ChatStreamProfile flagged')
        . chat('/one', 'sse?script=stall', $RECORD, $key, 'ChatStreamMaxPerUser 1')
        . chat('/header', 'sse?script=stall', $RECORD, 'ChatStreamUserHeader X-User-Id', 'ChatStreamMaxPerUser 1')
        . chat('/outer', 'sse?tokens=2', $RECORD, $key, 'ChatStreamRateLimit 1/600')
        . chat('/outer/off', 'sse?tokens=2', 'ChatStreamRecord off')
        . chat('/outer/sessions', 'sse?tokens=2', 'ChatStreamRecord sessions')
        . chat('/audit', 'sse?tokens=2', 'ChatStreamRecord audit');
}

sub scripts
{
    $up->reset;
    $up->script(two   => "token one\nwait seen\ntoken two\ndone\n");
    $up->script(stall => "token one\nstall\n");
    return;
}

# ---- what was written since the last look --------------------------------------------------------------------------------------

my $last;

sub news
{
    ok $t->records_settled(30), "$name: settled";
    my @rows = $t->database->query('SELECT * FROM audit_log WHERE id > ? ORDER BY id', $last);
    $last = $rows[-1]{id} if @rows;
    return @rows;
}

# Without the heads of other chains, which the first row of each chain has beside its own.
sub detail
{
    my ($row) = @_;
    return undef if !defined $row->{detail};
    my $detail = JSON::PP->new->decode($row->{detail});
    delete $detail->{anchors};
    return %$detail ? JSON::PP->new->canonical->encode($detail) : undef;
}

# Exactly these rows, in whatever order of the children; each wanted one is [ event, column => value ... ], where stream_id,
# user_key, user_email, ip, detail and query_hash that are not named are NULL.
sub audited
{
    my ($what, @wanted) = @_;
    my @rows = news();
    is join(' ', sort map { $_->{event} } @rows), join(' ', sort map { $_->[0] } @wanted), "$name: $what: the events";
    my %of;
    push @{ $of{ $_->{event} } }, $_ for @rows;
    for my $wanted (@wanted) {
        my ($event, %want) = @$wanted;
        my ($row) = grep { !defined $want{stream_id} || ref $want{stream_id} || ($_->{stream_id} // '') eq $want{stream_id} } @{ $of{$event} || [] };
        $row or fail("$name: $what: no $event of that stream"), next;
        @{ $of{$event} } = grep { $_ != $row } @{ $of{$event} };
        for my $column (qw(stream_id user_key user_email ip detail query_hash)) {
            my $is = $column eq 'detail' ? detail($row) : $row->{$column};
            ref $want{$column} ? like($is // 'NULL', $want{$column}, "$name: $what: $event: $column")
                : is($is, $want{$column}, "$name: $what: $event: $column");
        }
    }
    return @rows;
}

sub from { return [ 'X-Client' => $_[0] ] }
sub of { my ($who) = @_; return [ Authorization => "Bearer $who", 'X-Client' => $V4 ] }
sub anonymous { my ($address) = @_; return 'anon-' . substr sha256_hex("address $address"), 0, 32 }

my $HI = sha256_hex('hi');
my $ENDED = '{"status":"completed"}';

# Opening and closing row of a stream.
sub both
{
    my ($id, $detail, %who) = @_;
    return ([ 'stream_open', stream_id => $id, query_hash => $HI, %who ],
        [ 'stream_close', stream_id => $id, query_hash => $HI, detail => $detail, %who ]);
}

sub everything
{
    my %anna = (user_key => 'anna', user_email => 'anna@example.com');
    my $anna = $token->sign({ sub => 'anna', email => 'anna@example.com', exp => time + 6000 });
    my $bert = $token->sign({ sub => 'bert', exp => time + 6000 });
    my @ok = ('auth_ok', %anna, ip => $V4);
    my %nobody = (user_key => anonymous($V4));

    # ---- a stream ------------------------------------------------------------------------------------------------------------

    scripts();
    my $answer = $t->request('/done?message=hi&user_email=said@example.com', headers => from($V4));
    audited('a stream', both($answer->header('x-stream-id'), $ENDED, %nobody));
    $answer = $t->request('/done?message=hi', headers => from($V6));
    audited('from IPv6', both($answer->header('x-stream-id'), $ENDED, user_key => anonymous($V6)));
    $answer = $t->request('/done?message=hi', headers => of($anna));
    audited('of a named user', [@ok], both($answer->header('x-stream-id'), $ENDED, %anna));
    $answer = $t->request('/done?message=hi&user_email=said@example.com', headers => of($bert));
    audited('without an email', [ 'auth_ok', user_key => 'bert', ip => $V4 ], both($answer->header('x-stream-id'), $ENDED, user_key => 'bert'));
    $t->request('/500?message=hi', headers => from($V4));
    audited('an error', both(undef, '{"code":"upstream_error","status":"error"}', %nobody, stream_id => qr/^[0-9a-f-]{36}$/));
    $answer = $t->request('/audit?message=hi', headers => from($V4));
    audited('without a session', both($answer->header('x-stream-id'), $ENDED, %nobody));
    is $t->database->value("SELECT count(*) FROM streaming_sessions WHERE profile = '/audit'"), 0, "$name: which has no row";

    # ---- coming back ---------------------------------------------------------------------------------------------------------

    scripts();
    my $stream = $t->stream('/chat?message=hi', headers => from($V4));
    my $id = $stream->header('x-stream-id');
    my $event = $stream->event_of('token');
    $stream->abort;
    $stream = $t->stream('/chat', headers => [ 'Last-Event-ID' => $event->{id}, 'X-Client' => $V4 ]);
    $up->signal('seen');
    $stream->events;
    audited('a resume', [ 'reconnect', stream_id => $id, %nobody ], both($id, $ENDED, %nobody));
    $stream->close;
    $t->request('/chat', headers => [ 'Last-Event-ID' => $event->{id}, 'X-Client' => '198.51.100.1' ]);
    audited("somebody else's");

    my @tab = ('X-Connection-Id' => "tab-$name", 'X-Client' => $V4);
    $answer = $t->request('/done?message=hi', headers => [@tab]);
    audited('a connection id', both($answer->header('x-stream-id'), $ENDED, %nobody));
    $answer = $t->request('/done?message=hi', headers => [@tab]);
    my $again = $answer->header('x-stream-id');
    audited('and its second use', [ 'reconnect', stream_id => $again, %nobody ], both($again, $ENDED, %nobody));
    $answer = $t->request('/done?message=hi', headers => [ @tab[ 0, 1 ], 'X-Client' => $V6 ]);
    audited('by somebody else', both($answer->header('x-stream-id'), $ENDED, user_key => anonymous($V6)));

    # ---- cancelling ----------------------------------------------------------------------------------------------------------

    scripts();
    $stream = $t->stream('/chat?message=hi', headers => of($anna));
    $id = $stream->header('x-stream-id');
    $stream->event_of('token');
    $t->request("/chat?stream_id=$id", method => 'DELETE', headers => from($V4));    # not hers to cancel
    is $t->request("/chat?stream_id=$id", method => 'DELETE', headers => of($anna))->status, 200, "$name: cancelled";
    $stream->events;
    $stream->close;
    audited('a cancel', [@ok], [ 'cancel', stream_id => $id, %anna ], both($id, '{"code":"cancelled","status":"cancelled"}', %anna));

    # ---- the gate ------------------------------------------------------------------------------------------------------------

    my $network = '203.0.113.0/24';
    my %refused = (%nobody, ip => $network, detail => '{"code":"unauthorized"}');
    my $worn = $token->sign({ sub => 'anna', email => 'anna@example.com', exp => time - 600 });
    is $t->request('/done?message=hi', headers => of($worn))->status, 401, "$name: an old token";
    audited('an old token', [ 'auth_failed', %refused ]);
    is $t->request('/required?message=hi', headers => from($V4))->status, 401, "$name: no token";
    audited('no token', [ 'auth_failed', %refused ]);
    is $t->request('/required?message=hi', headers => from($V6))->status, 401, "$name: no token, IPv6";
    audited('no token, IPv6', [ 'auth_failed', %refused, user_key => anonymous($V6), ip => '2001:db8:1::/48' ]);
    is $t->request('/valid-user?message=hi', headers => from($V4))->status, 401, "$name: Require valid-user";
    audited('Require valid-user', [ 'auth_failed', %refused ]);
    is $t->request('/done?stream_id=' . $id, method => 'DELETE', headers => of($worn))->status, 401, "$name: DELETE with an old token";
    audited('DELETE with an old token', [ 'auth_failed', %refused ]);
    $answer = $t->request('/valid-user?message=hi', headers => of($anna));
    audited('Require valid-user and a token', [@ok], both($answer->header('x-stream-id'), $ENDED, %anna));

    # The same for both: how they are known, not how they are refused.
    my %limited = (detail => '{"code":"rate_limited"}');
    $answer = $t->request('/rate?message=hi', headers => from($V4));
    is $t->request('/rate?message=hi', headers => from($V4))->status, 429, "$name: over the limit";
    audited('rate_limited', both($answer->header('x-stream-id'), $ENDED, %nobody), [ 'rate_limited', %limited, %nobody, ip => $network ]);
    $answer = $t->request('/rate?message=hi', headers => of($anna));
    is $t->request('/rate?message=hi', headers => of($anna))->status, 429, "$name: over her limit";
    audited('rate_limited, named', [@ok], both($answer->header('x-stream-id'), $ENDED, %anna), [ 'rate_limited', %limited, %anna, ip => $V4 ]);

    is $t->request('/disabled?message=hi', headers => from($V4))->status, 404, "$name: disabled";
    audited('disabled', [ 'denied', %nobody, ip => $network, detail => '{"code":"streaming_disabled"}' ]);
    scripts();
    $stream = $t->stream('/one?message=hi', headers => of($anna));
    $id = $stream->header('x-stream-id');
    $stream->event_of('token');
    is $t->request('/one?message=hi', headers => of($anna))->status, 429, "$name: a second one";
    $t->request("/one?stream_id=$id", method => 'DELETE', headers => of($anna));
    audited('too_many_streams', [@ok], [ 'denied', %anna, ip => $V4, detail => '{"code":"too_many_streams"}' ], [ 'cancel', stream_id => $id, %anna ],
        both($id, '{"code":"cancelled","status":"cancelled"}', %anna));
    $stream->close;
    # Named by the proxy in front: a name, without an email.
    my @carl = (headers => [ 'X-User-Id' => 'carl', 'X-Client' => $V4 ]);
    $stream = $t->stream('/header?message=hi&user_email=said@example.com', @carl);
    $id = $stream->header('x-stream-id');
    $stream->event_of('token');
    is $t->request('/header?message=hi', @carl)->status, 429, "$name: a second one of his";
    $t->request("/header?stream_id=$id", method => 'DELETE', @carl);
    my %carl = (user_key => 'carl');
    audited('too_many_streams, named by a header', [ 'denied', %carl, ip => $V4, detail => '{"code":"too_many_streams"}' ],
        [ 'cancel', stream_id => $id, %carl ], both($id, '{"code":"cancelled","status":"cancelled"}', %carl));
    $stream->close;

    # What is wrong with the form of a request is no event.
    $t->request('/done', headers => from($V4));
    $t->request('/done?message=hi', method => 'PUT', headers => from($V4));
    $t->request('/done?message=hi', method => 'HEAD', headers => from($V4));
    audited('bad requests and looks');
    return;
}

sub flags
{
    my $file = $t->dir . '/flags.json';
    my $write = sub {
        open my $handle, '>', "$file.new" or die $!;
        print $handle $_[0];
        close $handle;
        rename "$file.new", $file or die $!;
    };
    $write->('{"profiles":{"flagged":{"enabled":false}}}');
    ok wait_until(sub { $t->request('/flagged?message=hi', headers => from($V4))->status == 404 }, 20), "$name: the flag goes off";
    ok wait_until(sub { $t->records_settled && $t->database->value("SELECT count(*) FROM audit_log WHERE event = 'flag_change'") }, 20),
        "$name: flag_change";
    $write->('{"profiles":{"flagged":{"enabled":true}}}');
    ok wait_until(sub { $t->request('/flagged?message=hi', headers => from($V4))->status == 200 }, 20), "$name: the flag goes on";
    my $changes = "SELECT count(*) FROM audit_log WHERE event = 'flag_change'";
    ok wait_until(sub { $t->records_settled && $t->database->value($changes) >= 2 }, 20), "$name: flag_change again";
    # What is wrong in the file changes nothing.
    $write->('{"profiles":');
    ok $t->wait_log(qr/last good state stays/), "$name: a broken file";
    my @changes = grep { $_->{event} eq 'flag_change' } news();
    is scalar @changes, 2, "$name: one row for each change, whatever the number of children";
    is join(' ', map { $_->{ip} // () } @changes), '', "$name: and nobody's address";
    return;
}

# ---- off ---------------------------------------------------------------------------------------------------------------------------

sub off
{
    my $anna = $token->sign({ sub => 'anna', email => 'anna@example.com', exp => time + 6000 });
    my $rows = $t->database->value('SELECT count(*) FROM streaming_sessions');
    $t->request('/outer/off?message=hi', headers => of($_)) for $anna, $anna, 'bad.token.here';
    $t->request('/outer/off?message=hi', headers => from($V4)) for 1 .. 2;
    audited('off in an inner location');
    is $t->database->value('SELECT count(*) FROM streaming_sessions'), $rows, "$name: off: no session";
    $t->request('/outer/sessions?message=hi', headers => of($_)) for $anna, $anna, 'bad.token.here';
    audited('sessions without audit');
    is $t->database->value('SELECT count(*) FROM streaming_sessions'), $rows + 1, "$name: sessions: one of them";
    my $answer = $t->request('/outer?message=hi', headers => of($anna));
    audited('the outer one', [ 'auth_ok', user_key => 'anna', user_email => 'anna@example.com', ip => $V4 ],
        both($answer->header('x-stream-id'), $ENDED, user_key => 'anna', user_email => 'anna@example.com'));
    return;
}

# Where an address or an email must never be, whatever the event; times go forwards in each chain, numbers without a gap.
sub over_all
{
    my @rows = $t->database->query('SELECT * FROM audit_log ORDER BY chain, seq');
    my (@whole, @odd, @email, @order, %before);
    for my $row (@rows) {
        my $text = join ' ', map { $_ // '' } @$row{qw(user_key user_email ip detail)};
        push @whole, "$row->{event} $text" if $text =~ /\Q$V4\E|\Q$V6\E/ && ($row->{user_key} // '') =~ /^anon-/;
        push @odd, $row->{event} if defined $row->{ip} && $row->{event} !~ /^(?:rate_limited|auth_failed|auth_ok|denied)$/;
        push @email, $row->{event} if defined $row->{user_email} && $row->{user_key} ne 'anna' || $text =~ /said\@/;
        my $last = $before{ $row->{chain} } || { seq => 0, ts => '' };
        push @order, "$row->{chain} $row->{seq}" if $row->{seq} != $last->{seq} + 1 || $row->{ts} lt $last->{ts};
        $before{ $row->{chain} } = $row;
    }
    is "@whole", '', "$name: no address of somebody without a name";
    is "@odd", '', "$name: no address where it is not about security";
    is "@email", '', "$name: no email of somebody without a token";
    is "@order", '', "$name: each chain in order";
    cmp_ok scalar(keys %before), '>=', 1, "$name: " . @rows . ' rows';
    return;
}

for my $setup (
    { name => 'sqlite3', database => 'sqlite3', children => 2 },
    { name => 'pgsql',   database => 'pgsql', children => 2, mpm => 'worker' },
    { name => 'mysql',   database => 'mysql', children => 2 },
) {
    $name = $setup->{name};
    $t = ChatStream::Test->new(
        start => 0, modules => [qw(remoteip authz_user)], map { exists $setup->{$_} ? ($_ => $setup->{$_}) : () } qw(database children mpm),
    );
    $up = $t->upstream;
    $token = ChatStream::Token->new('HS256', dir => $t->dir);
    $t->httpd->{config} = config();
    $t->httpd->{server_config} = 'ChatStreamFlagFile "' . $t->dir . "/flags.json\"\n";
    chmod 0777, $t->dir;
    $t->allow_log(qr/ended as error \(upstream_error|last good state stays/);
    $t->start;
    $last = 0;
    ok wait_until(sub { eval { $t->database->value('SELECT count(*) FROM audit_log'); 1 } || ($t->request('/outer?message=hi') && 0) }, 20), "$name: ready";
    news();
    everything();
    off();
    flags();
    over_all();
    my ($rc, $said) = $t->ctl('audit', 'verify');
    is $rc, 0, "$name: the chains verify while they grow" or diag $said;
    $t->check;
}
done_testing();
