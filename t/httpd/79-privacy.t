#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# What the records and logs of a server keep of its users: words planted in messages, histories, tokens, addresses of e-mail
# and client addresses, in streams that end in every way, are in no file of the test's directory, while httpd runs and after
# it has stopped. Where transcript is on, chat_messages has the messages, and no other table. (What %h writes to an access
# log, and the "[client ...]" of httpd's own messages, is for the administrator to say.)

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;
use ChatStream::Token;
use File::Find ();
use Time::HiRes ();

my $planted = 0;
sub plant { return sprintf 'PLANTED%s%03d', $_[0], ++$planted }
sub message { return plant('MESSAGE') }
sub history { return [ { role => 'user', content => plant('HISTORY') }, { role => 'assistant', content => plant('HISTORY') } ] }
sub bad_token { return 'eyJhbGciOiJIUzI1NiJ9.' . plant('TOKEN') . '.' . plant('TOKEN') }
sub email { return lc(plant('MAIL')) . '@example.com' }

# Through mod_remoteip. Of these, the network may be kept: 203.0.113.0/24, 2001:db8:77::/48.
my $host = 0;
sub v4 { return '203.0.113.' . (100 + ++$host % 100) }
sub v6 { return sprintf '2001:db8:77:a:b:c:d:%x', 0x4000 + ++$host }
sub from { return ('X-Forwarded-For' => $_[0]) }
# Whoever has said his name: what the audit trail has of him in events of auth, and nothing else has.
my $NAMED = '198.51.100.77';

sub config
{
    my ($record, $key) = @_;
    my @record = ("ChatStreamRecord $record", "ChatStreamJWTKey HS256 " . $key->file, 'ChatStreamOnDisconnect abort 0s');
    return chat('/chat', 'sse?reply=echo', @record)
        . chat('/fail', 'sse?status=500', @record)
        . chat('/cut', 'sse?script=cut', @record)
        . chat('/wait', 'sse?script=wait', @record, 'ChatStreamOnDisconnect detach', patient())
        . chat('/leave', 'sse?script=wait', @record, patient())
        . chat('/rate', 'sse?reply=echo', @record, 'ChatStreamRateLimit 1/300')
        . chat('/one', 'sse?script=wait', @record, 'ChatStreamMaxPerUser 1', patient())
        . chat('/slow', 'sse?script=wait', @record, 'ChatStreamTimeout 1 headers=900 first-token=900 idle=900')
        . chat('/members', 'sse?reply=echo', @record, 'ChatStreamAuth required')
        . chat('/off', 'sse?reply=echo', @record, 'ChatStreamEnabled Off')
        . qq(<Location "/nothing">\nRewriteEngine On\nRewriteRule .* - [H=chatstream]\n</Location>\n)
        . <<'END';
<Location "/whole">
    SetHandler chatstream-complete
    ChatStreamEnabled On
    ChatStreamUpstream "${UPSTREAM}/sse?reply=echo"
END
}

# All kinds of requests, from one kind of client: anonymous ones come from addresses of their own.
sub traffic
{
    my ($t, $address, $key) = @_;
    my $sign = sub { my ($user) = @_; return $key->sign({ sub => $user, email => email_of($user), name => plant('NAME'), exp => time + 600 }) };
    my @secrets;
    my $token = sub { my $token = $sign->(@_); push @secrets, $token, split /\./, $token; return $token };
    my $is = sub { my ($status, $name, @rest) = @_; my $answer = $t->request(@rest); is $answer->status, $status, "$name: $status"; return $answer };
    my $anybody = sub { return (headers => [ from($address->()), @_ ]) };
    my $anna = sub { return (headers => [ from($NAMED), Authorization => 'Bearer ' . $token->('anna') ]) };
    my @named = (headers => [ from($NAMED) ]);

    $is->(200, 'anonymous', '/chat?message=' . message(), $anybody->());
    $is->(200, 'who says who he is', '/chat', json => { message => message(), user_email => email(), user_role => 'member' }, $anybody->());
    $is->(200, 'with a history', '/chat', json => { message => message(), conversation_history => history() }, $anybody->());
    $is->(200, 'with a history in the query', '/chat?message=' . message() . '&conversation_history=%5B%7B%22role%22:%22user%22,%22content%22:%22'
        . plant('HISTORY') . '%22%7D%5D', $anybody->());
    $is->(200, 'whole', '/whole', json => { message => message() }, $anybody->());
    $is->(200, 'by name', '/chat?message=' . message(), $anna->());
    $is->(200, 'by name, in the query', '/chat?message=' . message() . '&token=' . $token->('bob'), @named);
    $is->(200, 'by name, in the body', '/members', json => { message => message(), token => $token->('anna') }, @named);
    $is->(401, 'a bad token', '/chat?message=' . message() . '&token=' . bad_token(), $anybody->());
    $is->(401, 'a bad token in a header', '/chat?message=' . message(), $anybody->(Authorization => 'Bearer ' . bad_token()));
    $is->(401, 'no token', '/members?message=' . message(), $anybody->());
    my $late = $key->sign({ sub => plant('NAME'), email => email(), exp => 1 });
    push @secrets, $late;
    $is->(401, 'a token out of date', '/chat?message=' . message() . "&token=$late", $anybody->());
    $is->(502, 'an upstream that fails', '/fail?message=' . message(), $anybody->());
    $is->(200, 'an upstream that is cut', '/cut?message=' . message(), $anybody->());
    $is->(500, 'no upstream', '/nothing?message=' . message(), $anybody->());
    $is->(404, 'off', '/off?message=' . message(), $anybody->());
    $is->(400, 'wrong', '/chat?message=' . message() . '%FF', $anybody->());
    $is->(400, 'wrong JSON', '/chat', body => '{"message":"' . message(), $anybody->('Content-Type' => 'application/json'));
    $is->(405, 'a wrong method', '/chat?message=' . message(), method => 'PUT', body => message(), $anybody->());
    my @same = $anybody->();
    $is->(200, 'the first of a minute', '/rate?message=' . message(), @same);
    $is->(429, 'the second', '/rate?message=' . message(), @same);
    $is->(429, 'the third', '/rate', json => { message => message() }, @same);
    $is->(410, 'back to nothing', '/chat?last_event_id=01a1fcd9-2d4d-7e91-9b8a-48d267f0963f:3&message=' . message(), $anybody->());
    $is->(200, 'out of time', '/slow?message=' . message(), $anybody->());
    $is->(200, 'HTTP/2', '/chat?message=' . message(), http2 => 1, $anybody->());
    $is->(200, 'HTTP/2, by name', '/chat', http2 => 1, json => { message => message(), conversation_history => history() }, $anna->());

    # One of a user, cancelled.
    @same = $anybody->();
    my $first = $t->stream('/one?message=' . message(), @same);
    $first->event_of('token');
    $is->(429, 'a second at a time', '/one?message=' . message(), @same);
    my $id = $first->header('x-stream-id');
    $is->(410, 'somebody else comes to it', "/one?last_event_id=$id:1&message=" . message(), $anybody->());
    $is->(200, 'cancelled', "/one?stream_id=$id", method => 'DELETE', @same);
    $first->body;
    $first->close;
    # Left for good, and left and taken up again.
    my $left = $t->stream('/leave?message=' . message(), $anybody->());
    $left->event_of('token');
    $left->abort;
    @same = $anybody->();
    my $stream = $t->stream('/wait?message=' . message(), @same);
    my $event = $stream->event_of('token');
    $stream->abort;
    my $back = $t->stream("/wait?last_event_id=$event->{id}", @same);
    is $back->status, 200, 'taken up again: 200';
    return ($back, @secrets);
}

sub email_of { my ($user) = @_; return "$user.known\@example.com" }

# Every file below the test's directory that the server writes, and what is in it.
sub files
{
    my ($t) = @_;
    my @files;
    my @dirs = map { $t->dir . "/$_" } qw(logs run state);
    push @dirs, glob $t->dir . '/db-*';
    File::Find::find({ no_chdir => 1, wanted => sub { push @files, $_ if -f } }, grep { -d } @dirs);
    return @files;
}

my $ADDRESS = qr/203\.0\.113\.(?!0\/24)\d+|2001:0?db8:0?0?77:(?!:\/48)[0-9a-f:]+/i;

sub leaks
{
    my ($t, $pattern, @files) = @_;
    my @found;
    for my $file (@files) {
        my $text = slurp($file) // next;    # a segment of the journal may go meanwhile
        push @found, "$file: $1" while $text =~ /([\x20-\x7e]{0,60}(?:$pattern)[\x20-\x7e]{0,20})/g;
    }
    return @found;
}

sub none
{
    my ($name, @found) = @_;
    ok !@found, "$name: no file has it" or diag join "\n", scalar(@found) . ' places', @found[ 0 .. ($#found < 9 ? $#found : 9) ];
    return;
}

# The tables by themselves, so that chat_messages can be left out.
sub tables_with
{
    my ($t, $pattern) = @_;
    my $database = $t->database;
    my @found;
    for my $table (map { $_->{name} } $database->query("SELECT name FROM sqlite_master WHERE type = 'table'")) {
        for my $row ($database->query("SELECT * FROM \"$table\"")) {
            push @found, map { ($row->{$_} // '') =~ /$pattern/ ? "$table.$_" : () } sort keys %$row;
        }
    }
    my %seen;
    return grep { !$seen{$_}++ } @found;
}

my $log = <<'END';
RemoteIPHeader X-Forwarded-For
RemoteIPInternalProxy 127.0.0.1
LogFormat "%u \"%r\" %>s %O \"%{Referer}i\" \"%{User-Agent}i\" %q" chatstream_test
END

for my $record ('sessions audit', 'sessions transcript audit') {
    my $t = ChatStream::Test->new(
        start => 0, children => 2, http2 => 1, modules => [qw(remoteip rewrite)], database => 'sqlite3', server_config => $log, log_level => 'info',
    );
    my $key = ChatStream::Token->new('HS256', dir => $t->dir);
    $t->httpd->{config} = config($record, $key) . "    ChatStreamRecord $record\n</Location>\n";
    $t->start;
    $t->upstream->script(wait => "token PLANTEDMESSAGE-answer\nwait end\ndone\n");
    $t->upstream->script(cut => "token PLANTEDMESSAGE-answer\ncut\n");
    my $with_text = $record =~ /transcript/;
    my (@open, @secrets);
    for my $address (\&v4, \&v6) {
        my ($stream, @more) = traffic($t, $address, $key);
        push @open, $stream;
        push @secrets, @more;
    }
    my %secret = map { $_ => 1 } grep { length > 20 } @secrets;
    # The first part of a token is the same for all and no secret.
    my $secrets = join '|', map { quotemeta } grep { !/^eyJhbGciOi[^.]*$/ } sort keys %secret;
    my $never = qr/PLANTED(?:HISTORY|TOKEN|NAME)|plantedmail|$secrets|$ADDRESS/i;
    my $text = qr/PLANTEDMESSAGE/;

    if ($with_text) {
        # What the search below would find if the journal forgot nothing.
        $t->database->freeze;
        push @open, $t->stream('/wait?message=' . message(), headers => [ from(v4()) ]);
        $open[-1]->event_of('token');
        ok scalar(leaks($t, $text, glob $t->state_dir . '/*')), "$record: while the database takes nothing, the journal has a message";
        $t->database->thaw;
    }

    # Streams are still open: what they were asked is in the journal for a moment, then in the database or nowhere.
    my $began = Time::HiRes::time();
    my @journals;
    ok wait_until(sub { !(@journals = leaks($t, $text, glob $t->state_dir . '/*')) }, 15), "$record: the journal forgets messages, of open streams too"
        or diag join "\n", @journals[ 0 .. ($#journals < 9 ? $#journals : 9) ];
    diag sprintf '%s: it took %.1f s', $record, Time::HiRes::time() - $began;
    none("$record: while streams are open", leaks($t, $never, files($t)));

    $t->upstream->signal('end');
    is $_->answer, '', "$record: the rest of the answer" for @open;
    $_->close for @open;
    ok $t->wait_active(0), "$record: all are over";
    ok $t->records_settled, "$record: the records have settled";
    ok wait_until(sub { !leaks($t, $text, glob $t->state_dir . '/*') }, 15), "$record: nor of answers is there anything in the journal";

    my $look = sub {
        my ($when) = @_;
        my @files = files($t);
        cmp_ok scalar(grep { /error\.log|access\.log|sqlite/ } @files), '>=', 3, "$record, $when: there are files";
        none("$record, $when: history, token, name, mail, address", leaks($t, $never, @files));
        none("$record, $when: text", leaks($t, $text, grep { !$with_text || !m{/db-} } @files));
        return;
    };
    $look->('when all have ended');

    my $database = $t->database;
    is join(' ', tables_with($t, $text)), $with_text ? 'chat_messages.content' : '', "$record: the messages are " . ($with_text ? 'in chat_messages' : 'nowhere');
    is join(' ', sort(tables_with($t, qr/\.known\@example\.com/))), 'audit_log.user_email streaming_sessions.user_email', "$record: an address of e-mail is a named user's";
    is join(' ', tables_with($t, qr/\Q$NAMED\E/)), 'audit_log.ip', "$record: his client address is in the audit trail";
    is join(' ', map { $_->{event} } $database->query('SELECT DISTINCT event FROM audit_log WHERE ip = ?', $NAMED)), 'auth_ok', "$record: in events of auth";
    none("$record: and in no log", leaks($t, qr/\Q$NAMED\E/, glob $t->dir . '/logs/*'));
    is $database->value("SELECT count(*) FROM streaming_sessions WHERE user_email IS NOT NULL AND (user_key LIKE 'anon-%' OR user_key IS NULL)"), 0,
        "$record: and of nobody else";
    is $database->value('SELECT count(*) FROM audit_log WHERE ip IS NOT NULL AND event NOT IN (?, ?, ?, ?)', qw(auth_failed auth_ok denied rate_limited)), 0,
        "$record: addresses are of events that are about safety";
    is join(' ', map { $_->{event} } $database->query('SELECT DISTINCT event FROM audit_log ORDER BY event')),
        'auth_failed auth_ok cancel denied rate_limited reconnect stream_close stream_open', "$record: every kind of event is there";
    is join(' ', map { $_->{ip} } $database->query("SELECT DISTINCT ip FROM audit_log WHERE ip LIKE '%/%' ORDER BY ip")), '2001:db8:77::/48 203.0.113.0/24',
        "$record: of unknown users the network";
    is join(' ', map { $_->{status} } $database->query('SELECT DISTINCT status FROM streaming_sessions ORDER BY status')),
        'cancelled completed disconnected error timeout', "$record: streams ended in every way";

    my @ours = grep { /\[chatstream:/ } split /\n/, $t->error_log;
    ok scalar(@ours), "$record: the module said something";
    is join("\n", grep { /\[client / } @ours), '', "$record: and nothing with a client's address";
    $t->expect_log(qr/ended as error \(upstream_error\)/);
    $t->expect_log(qr/there is no ChatStreamUpstream here/);
    $t->allow_log(qr/ended as timeout|\(timeout\)/);
    $t->check;
    $look->('when httpd has stopped');
}
cmp_ok $planted, '>', 150, 'words were planted';
done_testing();
