#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# What the law asks for, with a database that a server has filled and goes on filling: a user's data is handed out, and
# erased, until nothing tells of him any more; what is too old is removed; and the audit trail still verifies.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Process;
use ChatStream::Test;
use ChatStream::Token;

my %address = (anna => '198.51.100.11', bob => '198.51.100.12', one => '203.0.113.101', two => '203.0.113.102');
my @record = ('ChatStreamRecord sessions transcript audit', 'ChatStreamOnDisconnect detach', patient());

sub config
{
    my ($key) = @_;
    my @all = (@record, 'ChatStreamJWTKey HS256 ' . $key->file);
    return chat('/chat', 'sse?script=echo', @all) . chat('/wait', 'sse?script=wait', @all) . chat('/rate', 'sse?script=echo', @all, 'ChatStreamRateLimit 1/300');
}

# What somebody with or without a name does; the ids of his streams.
sub visits
{
    my ($t, $who, $token, $number) = @_;
    my @as = (headers => [ 'X-Forwarded-For' => $address{$who}, 'X-Connection-Id' => "tab-of-$who", $token ? (Authorization => "Bearer $token") : () ]);
    my @ids;
    for my $time (1 .. $number) {
        my $answer = $t->request("/chat?message=SECRET-$who-$time&conversation_id=talk-of-$who", @as);
        $answer->complete or die 'no answer: ' . $answer->status;
        push @ids, $answer->header('x-stream-id');
    }
    my $stream = $t->stream("/wait?message=SECRET-$who-wait", @as);
    my $event = $stream->event_of('token');
    $stream->abort;
    my $back = $t->stream("/wait?last_event_id=$event->{id}", @as);
    is $back->status, 200, "$who comes back";
    is $t->request('/wait?stream_id=' . $stream->header('x-stream-id'), method => 'DELETE', @as)->status, 200, "$who cancels";
    $back->body;
    $back->close;
    push @ids, $stream->header('x-stream-id');
    my $once = $t->request("/rate?message=SECRET-$who-rate", @as);
    push @ids, $once->header('x-stream-id');
    is $t->request("/rate?message=SECRET-$who-rate", @as)->status, 429, "$who asks too often";
    return @ids;
}

sub tables
{
    my ($database) = @_;
    my $sql = $database->driver eq 'pgsql'
        ? "SELECT table_name AS name FROM information_schema.tables WHERE table_schema = 'public'"
        : "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
    return sort map { $_->{name} } $database->query($sql);
}

# table.column of everything in which one of these words is.
sub places
{
    my ($database, @words) = @_;
    my $pattern = join '|', map { quotemeta } @words;
    my %found;
    for my $table (tables($database)) {
        for my $row ($database->query("SELECT * FROM $table")) {
            $found{"$table.$_"}++ for grep { defined $row->{$_} && $row->{$_} =~ /$pattern/i } keys %$row;
        }
    }
    return join ' ', sort keys %found;
}

# Everything that belongs to these streams or to this user.
sub rows_of
{
    my ($database, $user, @ids) = @_;
    my %mine = map { $_ => 1 } @ids;
    my %of = (streaming_sessions => 'id', chat_messages => 'session_id', audit_log => 'stream_id');
    my @rows;
    for my $table (sort keys %of) {
        push @rows, map { my $row = $_; join '|', map { "$_=" . ($row->{$_} // '-') } sort keys %$row }
            grep { $mine{ $_->{ $of{$table} } // '' } || ($_->{user_key} // '') eq $user } $database->query("SELECT * FROM $table ORDER BY id");
    }
    return \@rows;
}

sub ctl_json
{
    my ($t, @command) = @_;
    my ($rc, $said, $complaint) = $t->ctl('--json', @command);
    is $rc, 0, "@command: exit 0" or diag $said, $complaint;
    return eval { JSON::PP::decode_json($said) } // {};
}

sub verifies
{
    my ($t, $when) = @_;
    my ($rc, $said, $complaint) = $t->ctl('audit', 'verify');
    is $rc, 0, "$when: the trail verifies" or diag $said, $complaint;
    return;
}

for my $kind (qw(sqlite3 pgsql)) {
    my $t = ChatStream::Test->new(
        start => 0, children => 2, modules => ['remoteip'], database => $kind, records => { openings => 0 },
        server_config => "RemoteIPHeader X-Forwarded-For\nRemoteIPInternalProxy 127.0.0.1\n",
    );
    my $key = ChatStream::Token->new('HS256', dir => $t->dir);
    my %token = map { $_ => $key->sign({ sub => $_, email => "$_\@example.com", exp => time + 600 }) } qw(anna bob carl);
    $t->httpd->{config} = config($key);
    $t->start;
    $t->upstream->script(echo => "token You said \ntoken \$message\ndone\n");
    $t->upstream->script(wait => "token Well, \nwait never\ndone\n");
    my $database = $t->database;

    my %ids = map { $_ => [ visits($t, $_, $token{$_}, $_ eq 'anna' ? 8 : 3) ] } sort keys %address;
    ok $t->wait_active(0) && $t->records_settled, "$kind: the records have settled";
    my %key = (anna => 'anna', bob => 'bob', map { $_ => $database->value('SELECT user_key FROM streaming_sessions WHERE id = ?', $ids{$_}[0]) } qw(one two));
    like $key{one}, qr/^anon-[0-9a-f]{32}\z/, "$kind: somebody unknown has a key";
    isnt $key{one}, $key{two}, "$kind: of his own";

    # From here on the server goes on writing.
    my $go_on = 'while :; do curl -sS --noproxy "*" -o /dev/null -H "Authorization: Bearer $1" "$2"; done';
    my $url = 'http://127.0.0.1:' . $t->httpd->port . '/chat?message=SECRET-carl';
    my $carl = ChatStream::Process->start(
        name => 'carl', output => $t->dir . '/carl.log', command => [ 'sh', '-c', $go_on, 'sh', $token{carl}, $url ],
    );
    my $of_carl = sub { return $database->value('SELECT count(*) FROM streaming_sessions WHERE user_key = ?', 'carl') };
    ok wait_until(sub { $of_carl->() > 5 }, 10), "$kind: carl is there";

    # Article 15.
    my $all = ctl_json($t, 'gdpr', 'export', '--user', 'anna');
    is $all->{user}, 'anna', "$kind: the document is hers";
    is join(' ', sort map { $_->{id} } @{ $all->{sessions} }), join(' ', sort @{ $ids{anna} }), "$kind: each of her sessions is in it";
    is join(' ', sort grep { /SECRET/ } map { $_->{content} =~ /^SECRET/ ? $_->{content} : () } @{ $all->{messages} }),
        join(' ', sort((map { "SECRET-anna-$_" } 1 .. 8, 'wait', 'rate'))), "$kind: each question";
    is scalar(grep { $_->{content} =~ /^You said SECRET-anna-\d\z/ } @{ $all->{messages} }), 8, "$kind: each answer";
    my %events = map { $_->{event} => 1 } @{ $all->{audit} };
    is join(' ', sort keys %events), 'auth_ok cancel rate_limited reconnect stream_close stream_open', "$kind: and what the trail has";
    my $foreign = join '|', map { quotemeta } 'bob', 'carl', 'SECRET-one', 'SECRET-two', values %{ { map { $_ => $key{$_} } qw(one two) } };
    unlike JSON::PP::encode_json($all), qr/$foreign/, "$kind: nothing of others";
    my @hers = ('anna', $address{anna}, map { $_->{query_hash} // () } @{ $all->{sessions} }, @{ $all->{audit} });
    cmp_ok scalar(@hers), '>', 12, "$kind: there is something that tells of her";
    verifies($t, $kind);

    # Article 17.
    my %before = map { $_ => rows_of($database, $key{$_}, @{ $ids{$_} }) } qw(bob one two);
    my $erased = ctl_json($t, 'gdpr', 'erase', '--user', 'anna');
    is $erased->{sessions}, scalar @{ $all->{sessions} }, "$kind: her sessions are anonymous";
    is $erased->{messages}, scalar @{ $all->{messages} }, "$kind: her messages are deleted";
    is $erased->{audit_rows}, scalar @{ $all->{audit} }, "$kind: so are rows of the trail";
    is places($database, @hers), '', "$kind: nothing tells of her, in any table";
    is $database->value('SELECT count(*) FROM streaming_sessions'), $database->value('SELECT count(*) FROM streaming_sessions WHERE user_key IS NOT NULL') + @{ $ids{anna} },
        "$kind: her sessions are counted still";
    is_deeply rows_of($database, $key{$_}, @{ $ids{$_} }), $before{$_}, "$kind: $_ is untouched" for qw(bob one two);
    verifies($t, "$kind, after erase");
    is_deeply ctl_json($t, 'gdpr', 'export', '--user', 'anna'), { user => 'anna', sessions => [], messages => [], audit => [] }, "$kind: there is nothing left to hand out";
    my $rows = sub { return $database->value("SELECT count(*) FROM audit_log WHERE event = 'erase'") };
    my $told = $rows->();
    cmp_ok $told, '>', 0, "$kind: the trail says that something was erased";

    # Again.
    is_deeply ctl_json($t, 'gdpr', 'erase', '--user', 'anna'), { sessions => 0, messages => 0, audit_rows => 0, active => 0 }, "$kind: a second time there is nothing to erase";
    is $rows->(), $told, "$kind: nor to tell";
    is_deeply ctl_json($t, 'gdpr', 'erase', '--user', 'nobody'), { sessions => 0, messages => 0, audit_rows => 0, active => 0 }, "$kind: nor of somebody who never came";
    verifies($t, "$kind, after a second time");

    # Somebody without a name.
    my $anonymous = ctl_json($t, 'gdpr', 'export', '--user', $key{one});
    is scalar @{ $anonymous->{sessions} }, 5, "$kind: by the key of somebody unknown";
    $erased = ctl_json($t, 'gdpr', 'erase', '--user', $key{one});
    is $erased->{messages}, scalar @{ $anonymous->{messages} }, "$kind: his messages are deleted";
    is places($database, $key{one}, 'SECRET-one', 'tab-of-one', 'talk-of-one', grep { defined } map { $_->{query_hash} } @{ $anonymous->{sessions} }), '', "$kind: nothing tells of him";
    is_deeply rows_of($database, $key{$_}, @{ $ids{$_} }), $before{$_}, "$kind: $_ is untouched still" for qw(bob two);
    verifies($t, "$kind, after erasing somebody unknown");

    # She comes back, is there while she is erased, and is somebody new.
    my @as = (headers => [ Authorization => "Bearer $token{anna}", 'X-Forwarded-For' => $address{anna} ]);
    my $stream = $t->stream('/wait?message=SECRET-anna-again', @as);
    $stream->event_of('token');
    my $id = $stream->header('x-stream-id');
    is $t->session($id, 'any')->{user_key}, 'anna', "$kind: a new session is hers";
    is ctl_json($t, 'gdpr', 'erase', '--user', 'anna')->{active}, 1, "$kind: one that has not ended is told";
    is $t->request("/wait?stream_id=$id", method => 'DELETE', @as)->status, 200, "$kind: it ends";
    $stream->close;
    ok wait_until(sub { $database->value("SELECT count(*) FROM audit_log WHERE stream_id = ? AND event = 'stream_close'", $id) }, 15), "$kind: in the records too";
    ctl_json($t, 'gdpr', 'erase', '--user', 'anna');
    is places($database, @hers, 'SECRET-anna'), '', "$kind: and then nothing tells of her again";
    verifies($t, "$kind, after that");

    # What is too old.
    my $count = sub { return $database->value("SELECT count(*) FROM $_[0]") };
    my $removed = ctl_json($t, 'purge', '--days', 1);
    is "$removed->{sessions} $removed->{audit_rows}", '0 0', "$kind: nothing is older than a day";
    my ($sessions, $carls) = ($count->('streaming_sessions'), $of_carl->());
    $removed = ctl_json($t, 'purge', '--days', 0);
    cmp_ok $removed->{sessions}, '>=', 20, "$kind: everything is older than now";
    cmp_ok $removed->{audit_rows}, '>=', 40, "$kind: the trail too";
    is places($database, 'bob', 'SECRET-two', $key{two}), '', "$kind: of others nothing is left either";
    is $database->value("SELECT count(*) FROM streaming_sessions WHERE status = 'active' AND completed_at IS NOT NULL"), 0, "$kind: what is active is left alone";
    verifies($t, "$kind, after retention");
    my $then = $of_carl->();
    ok wait_until(sub { $of_carl->() > $then + 5 }, 10), "$kind: and the server goes on writing";
    ctl_json($t, 'purge', '--days', 0);
    verifies($t, "$kind, after retention again");
    cmp_ok $database->value("SELECT count(*) FROM audit_log WHERE event = 'retention'"), '>', 0, "$kind: the trail says where it begins";

    $carl->stop;
    is slurp($t->dir . '/carl.log') // '', '', "$kind: carl saw nothing of all this";
    ok $t->wait_active(0) && $t->records_settled, "$kind: the records have settled again";
    verifies($t, "$kind, at the end");
    $t->check;
    next if $kind ne 'sqlite3';
    # What SQLite has deleted is not in its files either.
    $database->stop;
    my @left = map { my $file = $_; my $text = slurp($file); map { index($text, $_) >= 0 ? "$file: $_" : () } qw(SECRET-anna SECRET-bob SECRET-one anna@ bob@) }
        glob("$database->{home}/*"), glob($t->state_dir . '/*');
    is "@left", '', "$kind: not even in a corner of a file";
}
done_testing();
